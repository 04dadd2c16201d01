"""Paths as people write them: `~` and `~user` mean a home folder, in the spec and on the command line alike."""

from pathlib import Path


def expanded(text: str) -> str:
    """The path with the home folder in place of a leading ~ or ~user; a user that is not known stays as written."""
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # no such user, or no home folder
        return text


def given_path(text: str) -> Path:
    """A path of the command line: the type of argparse's arguments."""
    return Path(expanded(text))
