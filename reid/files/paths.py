"""Paths as people write them: `~` and `~user` mean a home folder, in the spec and on the command line alike."""

from pathlib import Path

from reid.errors import SpecError


def expanded(text: str) -> str:
    """The path with the home folder in place of a leading ~ or ~user.

    Raises ValueError, which says what is wanted, if this machine knows no such user.
    """
    try:
        return str(Path(text).expanduser()) if text.startswith("~") else text
    except RuntimeError:  # no such user, or no home folder
        user = text.split("/", 1)[0]
        raise ValueError(
            f"the home folder of a user whom this machine knows; or ./{user} for that name itself"
        ) from None


def given_path(text: str) -> Path:
    """A path of the command line: the type of argparse's arguments. Raises SpecError if there is no such user."""
    try:
        return Path(expanded(text))
    except ValueError as error:
        raise SpecError(f"{text}: no such home folder\n  want: {error}") from None
