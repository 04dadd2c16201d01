"""Where faults are made: a small file system, a process with little memory, a clock that jumps."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def require_root() -> None:
    """Skips the test, and says loudly what is not tested, if this process may not mount."""
    if os.geteuid() != 0:
        pytest.skip("THIS FAULT IS NOT TESTED HERE: it needs root, to mount a file system")


def require_program(name: str, package: str) -> str:
    """The path of a program. Fails if it is not installed."""
    found = shutil.which(name)
    if found is None:
        pytest.fail(f"{name} is not here\n  want: apt-get install {package}, as .ci/run does")
    return found


@contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size, mounted at a new folder."""
    require_root()
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"THIS FAULT IS NOT TESTED HERE: a small tmpfs cannot be mounted: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", folder], check=True)


def remount(folder: Path, mode: str) -> None:
    """Makes a mounted file system read-only ("ro") or writable ("rw")."""
    subprocess.run(["mount", "-o", f"remount,{mode}", folder], check=True)


@contextmanager
def memory_group(bytes_: int) -> Iterator[list[str]]:
    """The beginning of a command that runs in a cgroup with so much memory; `ulimit -v` if none can be made."""
    for root, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        group = Path(root, f"reid-faults-{os.getpid()}")
        try:
            group.mkdir()
            (group / limit).write_text(str(bytes_))
        except OSError:
            if group.is_dir():
                group.rmdir()
            continue
        try:
            yield ["bash", "-c", f'echo $$ > {group}/cgroup.procs && exec "$@"', "bash"]
        finally:
            group.rmdir()
        return
    yield ["bash", "-c", f'ulimit -v {bytes_ // 1024} && exec "$@"', "bash"]
