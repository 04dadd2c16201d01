"""One process at a time in a folder: a lock on `<folder>/.lock`, which the system frees however its holder ends."""

import fcntl
import json
import logging
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from reid.errors import ArtifactError, FolderInUse
from reid.files.processes import is_alive
from reid.files.records import DamagedRecordError, make_way, read_json_text

logger = logging.getLogger(__name__)

LOCK = ".lock"
WAIT_S = 3.0
"""How long the lock of a dead holder is waited for: its child processes keep it until they notice."""


@dataclass
class _Holder:
    """What the holder of a lock writes into it."""

    pid: Annotated[int, Field(gt=0, lt=2**31)]
    user: str
    host: str
    since: str


@contextmanager
def locked(folder: Path, *, user: str) -> Iterator[int]:
    """Makes the folder and holds its lock while the block runs; gives the lock's file descriptor.

    `user` says in other processes' errors what is using the folder. Raises FolderInUse, which names the holder, if
    another process has it, and ArtifactError if the folder cannot be written.
    """
    descriptor = -1
    try:
        try:
            descriptor = _open_lock(folder)
            _acquire(descriptor, folder)
            holder = {"user": user, "pid": os.getpid(), "host": socket.gethostname(), "since": _now()}
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        except OSError as error:
            raise ArtifactError(
                f"{folder}: the results folder cannot be written\n  found: {error.strerror}\n"
                "  want:  a folder on a local disk that can; set results_dir"
            ) from error
        yield descriptor
    finally:
        if descriptor >= 0:
            os.close(descriptor)


@contextmanager
def in_turn(folder: Path, *, work: str) -> Iterator[None]:
    """Makes the folder and holds its lock while the block runs; waits for another holder, and says so in the log.

    `work` says what the holders do: "decoding images into it".
    """
    descriptor = _open_lock(folder)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.info("%s: another process is %s; waiting", folder, work)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def made_in_turn(path: Path) -> Iterator[None]:
    """Lets one process at a time make `path`: waits while another one does, and says so in the log.

    The block has to look again whether `path` exists. The lock is a file beside `path`, which is removed at the end. If
    it cannot be made, the block runs without it: its own writes beside `path` then fail too, with the reason.
    """
    whole = path.absolute()  # "." has no name
    lock = whole.with_name(f"{whole.name}.lock")
    descriptor = _open_removable(lock, path)
    try:
        yield
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _open_removable(lock: Path, path: Path) -> int | None:
    """The descriptor of the lock file, once this process holds it; None if it cannot be made or locked."""
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            return None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.info("%s: another process is making it; waiting", path)
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            if os.path.samestat(os.fstat(descriptor), lock.stat()):
                return descriptor
        except FileNotFoundError:  # the holder before has removed it: another file is the lock now
            pass
        except OSError:
            os.close(descriptor)
            return None
        os.close(descriptor)


def _open_lock(folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    make_way(folder / LOCK)
    return os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)


def _now() -> str:
    return datetime.now().isoformat(" ", "seconds")


def _acquire(descriptor: int, folder: Path) -> None:
    give_up_at = time.monotonic() + WAIT_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _read_holder(descriptor)
            if _is_known_to_live(holder) or time.monotonic() > give_up_at:
                raise FolderInUse(
                    f"{folder}: another process is using this results folder\n"
                    f"  found: {holder.get('user', 'an unknown user')}, process {holder.get('pid', '?')} "
                    f"on {holder.get('host', '?')}, since {holder.get('since', '?')}\n"
                    "  want:  wait until it ends, stop it, or choose another folder with results_dir"
                ) from None
        time.sleep(0.05)


def _read_holder(descriptor: int) -> dict[str, Any]:
    """What the holder wrote about itself; empty if it has not written yet, or if the file holds something else."""
    try:
        return asdict(read_json_text(os.pread(descriptor, 4096, 0), _Holder, source=LOCK))
    except DamagedRecordError:
        return {}


def _is_known_to_live(holder: dict[str, Any]) -> bool:
    """Whether the holder runs; a process of another machine is assumed to."""
    if "pid" not in holder:
        return False
    if holder.get("host") != socket.gethostname():
        return True
    return is_alive(holder["pid"])
