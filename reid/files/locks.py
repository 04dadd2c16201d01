"""One task at a time in a results folder: a lock on `<folder>/.lock`, which is free however its holder ended."""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from reid.errors import ArtifactError, TrainingError
from reid.files.processes import is_alive

LOCK = ".lock"
WAIT_S = 3.0
"""For a holder that is gone: its loader processes keep the lock until they notice."""


@contextmanager
def sole_task(folder: Path, task: str) -> Iterator[None]:
    """Makes the folder and holds its lock.

    TrainingError, naming the holder, where another process has it; ArtifactError where the folder cannot be written.
    """
    descriptor = -1
    try:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
            _take(descriptor, folder, task)
            holder = {"task": task, "pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise ArtifactError(
                f"{folder}: the results folder cannot be written\n  found: {error.strerror}\n"
                "  want:  a folder on a local disk that can; set results_dir"
            ) from error
        yield
    finally:
        if descriptor >= 0:
            os.close(descriptor)


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


def _take(descriptor: int, folder: Path, task: str) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(descriptor)
            if _alive(holder) or time.monotonic() > give_up_at:
                raise TrainingError(
                    f"{folder}: another task is using this results folder\n"
                    f"  found: {holder.get('task', 'a task')}, process {holder.get('pid', '?')} "
                    f"on {holder.get('host', '?')}, since {holder.get('since', '?')}\n"
                    f"  want:  wait until it ends, stop it, or choose another folder for {task}"
                ) from None
        time.sleep(0.05)


def _holder(descriptor: int) -> dict[str, Any]:
    """Who wrote itself into the lock; empty in the instant before it has."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _alive(holder: dict[str, Any]) -> bool:
    """Whether the holder is known to live; a process of another machine is taken to."""
    if "pid" not in holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    return is_alive(int(holder["pid"]))
