import os

import pytest

from reid.errors import ArtifactError
from reid.files.writing import copy_file, replacing, require_writable


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


def test_a_folder_or_a_device_in_the_way_is_left_as_it_is(tmp_path):
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for target, found in ((tmp_path, "Is a directory"), (pipe, "a device or a pipe")):
        with pytest.raises(ArtifactError) as caught, replacing(target):
            pass
        assert str(caught.value) == f"{target}: cannot be written\n  found: {found}"
    assert pipe.is_fifo()


def test_a_place_is_tried_before_the_work_and_what_is_there_stays(tmp_path):
    target = tmp_path / "a" / "file.txt"
    for _ in range(2):
        require_writable(target)
        assert list(target.parent.iterdir()) == []
    target.write_text("old")
    require_writable(target)
    assert target.read_text() == "old"
    require_writable(None)
    with pytest.raises(ArtifactError) as caught:
        require_writable(target / "below.txt")
    assert str(caught.value) == f"{target}/below.txt: cannot be written\n  found: File exists"
