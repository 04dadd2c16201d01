"""Writing a file so that a reader sees the old one or the whole new one, never a part."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from reid.errors import ArtifactError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to: renamed to `path` when the block ends well, removed when not.

    Folders above it are made. The temporary name is always the same: what a killed attempt left, the next overwrites.
    ArtifactError where the system refuses to write: no room, no right, a folder or a device in the way.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        if path.exists() and not path.is_file():
            code = errno.EISDIR if path.is_dir() else errno.EEXIST
            raise OSError(code, os.strerror(code) if path.is_dir() else "a device or a pipe")
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        if partial.exists():
            partial.unlink()


def require_writable(path: str | Path | None) -> None:
    """ArtifactError at once, and not after hours of work, where `replacing` could not write a file; None is no file."""
    if path is None:
        return
    with suppress(_Tried), replacing(Path(path)) as partial:
        partial.touch()
        raise _Tried


class _Tried(Exception):
    """Leaves `replacing` without a file."""


def copy_file(source: Path, target: Path) -> None:
    """Copy one file, replacing `target` in one step; nothing happens where both are the same file."""
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
