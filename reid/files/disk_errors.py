"""Reports a full or read-only disk as an error that the user can correct, wherever it occurs."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reid.errors import ArtifactError, ReidError

DISK_ERRORS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EFBIG}
"""The system's errors that are for the user to correct."""


@contextmanager
def raise_disk_errors_as_artifact_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError of a full or read-only disk into an ArtifactError, also if torch hides it in its own error.

    The text names the file, or `folder` if the system does not say which file it was.
    """
    try:
        yield
    except ReidError:
        raise
    except Exception as error:
        for cause in with_causes(error):
            if isinstance(cause, OSError) and cause.errno in DISK_ERRORS and _of_a_file(cause):
                raise ArtifactError(
                    f"{cause.filename or folder}: cannot be written\n  found: {cause.strerror}"
                ) from error
        raise


def with_causes(error: BaseException) -> Iterator[BaseException]:
    """Yields the error, its cause, the cause's cause and so on, each once: Python lets an error be its own cause."""
    current: BaseException | None = error
    seen: list[BaseException] = []
    while current is not None and not any(current is before for before in seen):
        yield current
        seen.append(current)
        current = current.__cause__ or current.__context__


def _of_a_file(error: OSError) -> bool:
    """False for a connection that was refused a right; a full disk does not name the file."""
    return error.filename is not None or error.errno not in {errno.EACCES, errno.EPERM}
