"""A process without a user's name, a home, memory or a working folder."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reid.errors import ArtifactError, MachineError
from reid.files.machine import machine_error, own_folder, raise_refusals_as_machine_errors, settle_in

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def nobody(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A user id without a passwd entry, without variables that name the user or a home."""

    def no_entry(_: int) -> None:
        raise KeyError("getpwuid(): uid not found: 12345")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME", "HOME"):
        monkeypatch.delenv(variable, raising=False)
    blocked = tmp_path / "file"
    blocked.touch()
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(blocked / "cache"))
    return tmp_path


def test_a_user_without_an_entry_gets_a_name_a_home_and_folders_for_caches(
    nobody: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", dict(os.environ))
    settle_in()
    own = nobody / f"reid-{os.getuid()}"
    assert {name: os.environ[name] for name in ("USER", "HOME", "NUMBA_CACHE_DIR")} == {
        "USER": str(os.getuid()),
        "HOME": str(own / "home"),
        "NUMBA_CACHE_DIR": str(own / "numba"),
    }
    assert own.stat().st_mode & 0o777 == 0o700


def test_a_folder_that_others_may_write_is_not_taken(nobody: Path) -> None:
    (nobody / f"reid-{os.getuid()}").mkdir(mode=0o777)
    (nobody / f"reid-{os.getuid()}").chmod(0o777)
    assert own_folder() != nobody / f"reid-{os.getuid()}"


@pytest.mark.parametrize(
    ("error", "found"),
    [
        (MemoryError(), "MemoryError"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "[Errno 12] Cannot allocate memory"),
        (RuntimeError("can't start new thread"), "can't start new thread"),
        (ImportError("libtorch.so: failed to map segment from shared object"),) * 2,
    ],
)
def test_memory_that_is_refused_is_one_sentence(error: Exception, found: object) -> None:
    assert str(machine_error(error)) == (
        f"memory: the machine gave this process no more\n  found: {found}\n"
        "  want:  more memory, or less to do: a smaller batch size, fewer dataset.num_workers or cpu_processes"
    )


def test_another_error_is_none_of_the_machine() -> None:
    assert machine_error(ValueError("no")) is None


def test_what_the_machine_refuses_in_a_block_is_a_machine_error_and_another_error_is_as_it_was() -> None:
    with pytest.raises(MachineError, match="memory: "), raise_refusals_as_machine_errors():
        raise MemoryError
    for error in (ValueError("no"), ArtifactError("found a MemoryError"), BrokenPipeError()):
        with pytest.raises(type(error)) as caught, raise_refusals_as_machine_errors():
            raise error
        assert caught.value is error


@pytest.mark.parametrize("command", ["reid", "pipelines"])
def test_a_working_folder_that_was_deleted_is_one_sentence(tmp_path: Path, command: str) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    done = subprocess.run(
        ["/bin/bash", "-c", f"cd {gone} && rmdir {gone} && {sys.executable} -m {command} validate"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.endswith(
        "error: the working folder: No such file or directory\n  want: one that is there: cd into it\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("command", ["reid spec --blank", "pipelines --help"])
def test_a_standard_stream_that_is_closed_is_no_bug(command: str) -> None:
    def run(redirected: str) -> "subprocess.CompletedProcess[str]":
        words = ["/bin/bash", "-c", f"{sys.executable} -m {command} {redirected}"]
        return subprocess.run(
            words, env={**os.environ, "PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
        )

    for redirected in (">&-", "2>&-", "<&-", ">&- 2>&- <&-"):
        done = run(redirected)
        assert (done.returncode, done.stderr) == (0, ""), redirected


@pytest.mark.slow
@pytest.mark.parametrize("words", ["reid spec --blank", "pipelines --spec demo --compile-only pipeline.yaml"])
def test_a_full_standard_output_is_one_sentence(words: str, tmp_path: Path) -> None:
    command = ["/bin/bash", "-c", f"{sys.executable} -m {words} >/dev/full"]
    surroundings = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=surroundings, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.endswith("error: the standard output: cannot be written\n  found: No space left on device\n")
