"""Which code made a model: one hash over this package, committed or not."""

from pathlib import Path

from reid.files.hashes import files_sha256

PACKAGE = Path(__file__).parents[1]


def code_sha256(package: Path = PACKAGE) -> str:
    """SHA-256 over the names and contents of every file of the package except compiled ones."""
    files = sorted(path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    return files_sha256(package, [path.relative_to(package).as_posix() for path in files])
