import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from reid.errors import ArtifactError
from reid.files.writing import copy_file, replace_link, replacing, require_writable, write_text


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


WRITE = "import sys, pathlib; from reid.files.writing import replacing\n"
WRITE += "with replacing(pathlib.Path(sys.argv[1])) as partial:\n"
WRITE += "    partial.write_text('half'); print(partial, flush=True); sys.stdin.read()"


def another_writer(target):
    """A process that has written half of the file, and the path of that half."""
    pipe = subprocess.PIPE
    writer = subprocess.Popen([sys.executable, "-c", WRITE, str(target)], stdin=pipe, stdout=pipe, text=True)
    return writer, Path(writer.stdout.readline().strip())


def test_the_half_of_a_killed_writer_is_removed_by_the_next(tmp_path):
    for _ in range(3):
        writer, half = another_writer(tmp_path / "file.txt")
        assert list(tmp_path.iterdir()) == [half]  # that of the killed one before is gone
        writer.kill()
        writer.communicate()
    with replacing(tmp_path / "file.txt") as partial:
        partial.write_text("new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_two_writers_at_once_do_not_tear_each_other(tmp_path):
    target = tmp_path / "file.txt"
    other, half = another_writer(target)
    with replacing(target) as partial:
        partial.write_text("first")
        assert half.read_text() == "half"
    assert target.read_text() == "first"
    assert half.read_text() == "half"
    other.communicate("")  # ends well
    assert target.read_text() == "half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_two_threads_at_once_do_not_tear_each_other(tmp_path):
    texts = [letter * 100_000 for letter in "abcd"] * 10
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda text: write_text(tmp_path / "file.txt", text), texts))
    assert (tmp_path / "file.txt").read_text() in texts
    assert [entry.name for entry in tmp_path.iterdir()] == ["file.txt"]


def test_the_half_of_another_file_is_left_alone(tmp_path):
    for name in ("file.txt.candidate.partial", "file.txt.part.partial", "other.partial"):
        (tmp_path / name).write_text("of another file")
    write_text(tmp_path / "file.txt", "new")
    assert len(list(tmp_path.iterdir())) == 4


def test_a_file_may_be_read_by_those_whom_the_umask_lets(tmp_path):
    write_text(tmp_path / "ours", "text")
    (tmp_path / "plain").write_text("text")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_is_replaced_in_one_step_and_is_relative(tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        replace_link(tmp_path / "latest" / "train", tmp_path / name)
        assert (tmp_path / "latest" / "train").readlink() == Path("..", name)
    assert [entry.name for entry in (tmp_path / "latest").iterdir()] == ["train"]


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
