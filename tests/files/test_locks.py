"""One process at a time in a folder."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from reid.errors import ArtifactError, FolderInUse
from reid.files.locks import locked, made_in_turn

HOLD = "import sys, pathlib; from reid.files.locks import locked\n"
HOLD += "with locked(pathlib.Path(sys.argv[1]), user='train'): print('held', flush=True); sys.stdin.read()"


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo])
def test_a_lock_that_is_no_file_is_set_aside(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path / ".lock")
    with locked(tmp_path, user="train"):
        assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", ".lock.damaged"]
        assert json.loads((tmp_path / ".lock").read_text())["user"] == "train"


@contextmanager
def another_task(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the folder until its input ends."""
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_the_second_is_refused_and_the_error_names_the_first(tmp_path: Path) -> None:
    with another_task(tmp_path) as first:
        with pytest.raises(FolderInUse) as caught, locked(tmp_path, user="train"):
            pass
        text = re.sub(r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "since THEN", str(caught.value))
    assert text == (
        f"{tmp_path}: another process is using this results folder\n"
        f"  found: train, process {first.pid} on {socket.gethostname()}, since THEN\n"
        "  want:  wait until it ends, stop it, or choose another folder with results_dir"
    )


def test_a_killed_holder_holds_no_longer(tmp_path: Path) -> None:
    with another_task(tmp_path) as first:
        os.kill(first.pid, signal.SIGKILL)
        first.wait()
        with locked(tmp_path, user="train"):
            pass


def test_one_after_the_other_may_have_it_and_other_folders_are_free(tmp_path: Path) -> None:
    with locked(tmp_path / "train", user="train"), locked(tmp_path / "evaluate", user="evaluate"):
        pass
    with locked(tmp_path / "train", user="train"):
        pass


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(ArtifactError) as caught, locked(tmp_path / "file" / "train", user="train"):
        pass
    assert str(caught.value) == (
        f"{tmp_path}/file/train: the results folder cannot be written\n"
        "  found: Not a directory\n"
        "  want:  a folder on a local disk that can; set results_dir"
    )


def test_an_error_of_the_task_itself_passes_through(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="of the task"), locked(tmp_path, user="train"):
        raise OSError("of the task")


@pytest.mark.parametrize("text", ["", "[]", '{"pid": "x"}', '{"since"'])
def test_a_lock_that_nobody_holds_is_taken_whatever_is_written_in_it(tmp_path: Path, text: str) -> None:
    (tmp_path / ".lock").write_text(text)
    with locked(tmp_path, user="train"):
        assert json.loads((tmp_path / ".lock").read_text())["pid"] > 0


@pytest.mark.parametrize("text", ["", "[]", '{"pid": "x"}', '{"since"'])
def test_a_lock_that_is_held_is_refused_whatever_is_written_in_it(
    tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reid.files.locks.WAIT_S", 0.1)
    with another_task(tmp_path):
        (tmp_path / ".lock").write_text(text)
        with pytest.raises(FolderInUse, match="found: an unknown user, process "), locked(tmp_path, user="train"):
            pass


MAKE = "import sys, pathlib, time; from reid.files.locks import made_in_turn\n"
MAKE += "path = pathlib.Path(sys.argv[1])\n"
MAKE += "with made_in_turn(path): print('making', flush=True); sys.stdin.read(); path.mkdir()"


def test_the_second_maker_waits_for_the_first_and_finds_what_it_made(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    path = tmp_path / "set"
    with subprocess.Popen([sys.executable, "-c", MAKE, str(path)], stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout
        assert first.stdin
        assert first.stdout.readline() == "making\n"
        threading.Timer(0.3, first.stdin.close).start()
        with made_in_turn(path):
            assert path.exists()
    assert [entry.name for entry in tmp_path.iterdir()] == ["set"]


def test_what_a_killed_maker_left_holds_nobody_up(tmp_path: Path) -> None:
    pipe = subprocess.PIPE
    path = tmp_path / "set"
    with subprocess.Popen([sys.executable, "-c", MAKE, str(path)], stdin=pipe, stdout=pipe, text=True) as first:
        assert first.stdout
        assert first.stdout.readline() == "making\n"
        first.kill()
    with made_in_turn(path):
        assert [entry.name for entry in tmp_path.iterdir()] == ["set.lock"]
    assert list(tmp_path.iterdir()) == []


def test_each_of_many_makers_is_alone(tmp_path: Path) -> None:
    inside: list[int] = []

    def make(number: int) -> bool:
        with made_in_turn(tmp_path / "set"):
            inside.append(number)
            alone = inside == [number]
            time.sleep(0.005)
            inside.remove(number)
        return alone

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(make, range(40)))
    assert list(tmp_path.iterdir()) == []


def test_a_place_where_no_lock_can_be_made_is_no_error_of_the_lock(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with made_in_turn(tmp_path / "file" / "set"):
        pass
