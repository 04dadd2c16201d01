"""Writing a file so that a reader sees the old one or the whole new one, never a part."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reid.errors import ArtifactError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` to write to: renamed to `path` when the block ends well, removed when not.

    Folders above it are made. The temporary name is always the same: what a killed attempt left, the next overwrites.
    ArtifactError where the system refuses to write: no room, no right, a folder in the way.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        if partial.exists():
            partial.unlink()


def copy_file(source: Path, target: Path) -> None:
    """Copy one file, replacing `target` in one step; nothing happens where both are the same file."""
    if target.exists() and target.samefile(source):
        return
    with replacing(target) as partial:
        shutil.copyfile(source, partial)
