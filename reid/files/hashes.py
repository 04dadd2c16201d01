"""SHA-256 of files, read in pieces: a model need not fit in memory twice."""

import hashlib
from collections.abc import Iterable
from pathlib import Path


def file_sha256(path: Path) -> str:
    """The SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def files_sha256(root: Path, names: Iterable[str]) -> str:
    """One SHA-256 over these names below `root` and the contents of their files, in this order.

    The name "." is `root` itself, if that is a file.
    """
    total = hashlib.sha256()
    for name in names:
        total.update(f"{name}\0{file_sha256(root / name)}\n".encode())
    return total.hexdigest()
