import pytest

from reid.errors import ArtifactError
from reid.files import copy_file, replacing


def test_a_file_appears_whole_with_its_folders(tmp_path):
    target = tmp_path / "a" / "b" / "file.txt"
    with replacing(target) as partial:
        partial.write_text("new")
        assert not target.exists()
    assert target.read_text() == "new"
    assert [entry.name for entry in target.parent.iterdir()] == ["file.txt"]


def test_an_error_inside_keeps_the_old_file_and_leaves_no_part(tmp_path):
    target = tmp_path / "file.txt"
    target.write_text("old")
    with pytest.raises(ZeroDivisionError), replacing(target) as partial:
        partial.write_text("half")
        1 / 0  # noqa: B018
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_what_a_killed_attempt_left_is_overwritten(tmp_path):
    (tmp_path / "file.txt.partial").write_text("left by a kill")
    with replacing(tmp_path / "file.txt") as partial:
        partial.write_text("new")
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file.txt"]


def test_a_place_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    target = tmp_path / "file" / "below.txt"
    with pytest.raises(ArtifactError) as caught, replacing(target):
        pass
    assert str(caught.value) == f"{target}: cannot be written\n  found: File exists"


def test_copying_a_file_onto_itself_does_nothing(tmp_path):
    source = tmp_path / "a.txt"
    source.write_text("text")
    (tmp_path / "link.txt").symlink_to(source)
    copy_file(source, source)
    copy_file(source, tmp_path / "link.txt")
    assert source.read_text() == "text"
    copy_file(source, tmp_path / "copy" / "b.txt")
    assert (tmp_path / "copy" / "b.txt").read_text() == "text"
