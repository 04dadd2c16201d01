"""Writing a file so that a reader sees the old one or the whole new one, never a part.

Every writer has a temporary file of its own beside the target, so that two at once do not tear each other: the last to
finish wins. The writer holds a lock on it, which the system frees however the process ends; a temporary file that
nobody holds was left by a killed process, and the next writer of the same target removes it. (A process number could
not show that: other containers and machines that write into the same folder number their processes themselves.)
"""

import errno
import fcntl
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reid.errors import ArtifactError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` to write to: renamed to `path` if the block ends well, removed if it does not.

    The folders above `path` are made. Raises ArtifactError if the system refuses to write: no room, no right, a folder
    or a device in the way.
    """
    try:
        if path.exists() and not path.is_file():
            code = errno.EISDIR if path.is_dir() else errno.EEXIST
            raise OSError(code, os.strerror(code) if path.is_dir() else "a device or a pipe")
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        with _temporary_file(path) as partial:
            yield partial
            partial.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written\n  found: {error.strerror or error}") from error


@contextmanager
def replacing_folder(folder: Path, *, beside: Path) -> Iterator[Path]:
    """A new folder to fill, which takes the place of `folder` if the block ends well, and is removed if it does not.

    The new folder and, for a moment, the old one stand beside `beside`, under its name and an ending; only one process
    may do so at a time (locks.made_in_turn). Raises ArtifactError if the system refuses to write.
    """
    partial, old = (beside.with_name(f"{beside.name}.{state}") for state in ("partial", "old"))
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        partial.mkdir(parents=True)
        yield partial
        folder.parent.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _temporary_file(path: Path) -> Iterator[Path]:
    """A new file beside `path`, locked while the block runs and removed after it unless it was renamed."""
    while True:
        partial = path.with_name(f"{path.name}.{secrets.token_hex(4)}.partial")
        descriptor = os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o666)
        with suppress(OSError):  # a file system without locks: then an abandoned file stays
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if partial.exists():  # else another writer took it for abandoned before it was locked
            break
        os.close(descriptor)
    try:
        yield partial
    finally:
        partial.unlink(missing_ok=True)
        os.close(descriptor)


def _remove_abandoned(path: Path) -> None:
    """Removes the temporary files of `path` that no living process holds."""
    name = re.compile(re.escape(path.name) + r"(\.[0-9a-f]{8})?\.partial")
    for entry in os.scandir(path.parent):
        if name.fullmatch(entry.name) and entry.is_file(follow_symlinks=False):
            with suppress(OSError):  # it is held, or gone already
                descriptor = os.open(entry.path, os.O_RDWR)
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    Path(entry.path).unlink()
                finally:
                    os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes the text as UTF-8, as `replacing` does; names of files in it may be of any bytes."""
    with replacing(path) as partial:
        partial.write_text(text, encoding="utf-8", errors="surrogateescape")


def replace_link(link: Path, target: Path) -> None:
    """Makes `link` a symbolic link to `target`, relative to the link's folder, in one step."""
    link.parent.mkdir(parents=True, exist_ok=True)
    fresh = link.with_name(f"{link.name}.{secrets.token_hex(4)}.partial")
    try:
        fresh.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
        fresh.replace(link)
    finally:
        fresh.unlink(missing_ok=True)


def require_writable(path: str | Path | None) -> None:
    """Raises ArtifactError now, and not after hours of work, if `replacing` could not write this file; None is fine."""
    if path is None:
        return
    with suppress(_NothingToWrite), replacing(Path(path)):
        raise _NothingToWrite


class _NothingToWrite(Exception):
    """Leaves `replacing` without a file."""


def copy_file(source: Path, target: Path) -> None:
    """Copies one file, replacing `target` in one step; does nothing if both are the same file."""
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
