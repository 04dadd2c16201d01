"""Which code made a model: one hash over this package, commits or not."""

import hashlib
from pathlib import Path

PACKAGE = Path(__file__).parents[1]


def code_sha256(package: Path = PACKAGE) -> str:
    """SHA-256 over the names and contents of every file of the package, compiled ones left out."""
    digest = hashlib.sha256()
    for path in sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts):
        content = hashlib.sha256(path.read_bytes()).hexdigest()
        digest.update(f"{path.relative_to(package).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()
