"""What a process needs of its machine beside its files: a user's name, a home, folders for caches, memory.

A container may run as a user id that no passwd entry names, without a home, in a checkout that it may not write. The
libraries below fail of that in their own ways, so every command settles in first. What it sets is in the environment,
and so holds for the processes that it starts too.
"""

import errno
import getpass
import os
import resource
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reid.errors import MachineError, ReidError
from reid.files.disk_errors import with_causes

CACHES = {"NUMBA_CACHE_DIR": "numba", "TORCHINDUCTOR_CACHE_DIR": "compiled", "MPLCONFIGDIR": "matplotlib"}
"""Environment variable -> the name of the folder that takes its place."""
NO_MEMORY = (
    *("can't allocate memory", "cannot allocate memory", "out of memory", "std::bad_alloc"),
    *("can't start new thread", "failed to map segment", "resource temporarily unavailable"),
)
"""What libraries say without memory, in small letters."""


def settle_in() -> None:
    """Gives this process a user's name, a home and folders for caches, if it has none that it can use.

    A standard stream that was closed becomes one that leads nowhere: what is written to it is lost, and no file that is
    opened later gets its number. Raises MachineError if the working folder was deleted.
    """
    _open_closed_streams()
    try:
        Path.cwd()
    except OSError as error:
        raise MachineError(f"the working folder: {error.strerror}\n  want: one that is there: cd into it") from None
    try:
        getpass.getuser()
    except (KeyError, OSError, ImportError):  # no passwd entry; the error depends on Python's version
        os.environ["USER"] = str(os.getuid())
    if not _has_home():
        home = own_folder() / "home"
        home.mkdir(exist_ok=True)
        os.environ["HOME"] = str(home)
    for variable, name in CACHES.items():
        if (given := os.environ.get(variable)) and not _may_make(Path(given)):
            os.environ[variable] = str(own_folder() / name)


def _open_closed_streams() -> None:
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            mode = "w" if number else "r"
            nowhere = os.open(os.devnull, os.O_RDWR)  # gets the number itself if it is still free
            if nowhere != number and not _is_open(number):
                os.dup2(nowhere, number)
                os.close(nowhere)
                nowhere = number
            setattr(sys, name, os.fdopen(nowhere, mode, encoding="utf-8", errors="backslashreplace"))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def own_folder() -> Path:
    """A folder of this user for temporary files that nobody else may write; it is made if it is not there."""
    folder = Path(tempfile.gettempdir(), f"reid-{os.getuid()}")
    folder.mkdir(mode=0o700, exist_ok=True)
    found = folder.lstat()
    if folder.is_symlink() or found.st_uid != os.getuid() or found.st_mode & 0o077:
        return Path(tempfile.mkdtemp(prefix="reid-"))  # somebody else was there first
    return folder


def _output_error(error: BaseException) -> MachineError | None:
    """The error in a sentence if the standard output is what cannot be written; from then on it leads nowhere."""
    if not isinstance(error, OSError) or error.errno != errno.ENOSPC or error.filename is not None:
        return None
    try:
        os.write(1, b"\n")  # the stream's own buffer may be empty again
    except OSError as refused:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is left in the buffer would fail once more at the end
        return MachineError(f"the standard output: cannot be written\n  found: {refused.strerror}")
    return None


@contextmanager
def raise_refusals_as_machine_errors() -> Iterator[None]:
    """Turns what libraries say if memory, threads or the standard output are refused into a MachineError."""
    try:
        yield
    except ReidError:
        raise
    except Exception as error:
        if refused := machine_error(error):
            raise refused from error
        raise


def machine_error(error: BaseException) -> MachineError | None:
    """The error in a sentence if memory, threads or the standard output were refused, whichever library says so."""
    if output := _output_error(error):
        return output
    for cause in with_causes(error):
        said = str(cause).lower()
        refused = isinstance(cause, OSError) and cause.errno in {errno.ENOMEM, errno.EAGAIN}
        if refused or isinstance(cause, MemoryError) or any(words in said for words in NO_MEMORY):
            limit = resource.getrlimit(resource.RLIMIT_AS)[0]
            allowed = "" if limit == resource.RLIM_INFINITY else f" (ulimit -v allows {limit / 2**30:.1f} GiB)"
            first = str(cause).strip().split("\n")[0] or type(cause).__name__
            return MachineError(
                f"memory: the machine gave this process no more{allowed}\n  found: {first}\n"
                "  want:  more memory, or less to do: a smaller batch size, fewer dataset.num_workers or cpu_processes"
            )
    return None


def _has_home() -> bool:
    """Whether there is a home that this process may write."""
    try:
        home = Path.home()
    except RuntimeError:  # neither HOME nor a passwd entry
        return False
    return home.is_absolute() and _may_make(home)


def _may_make(folder: Path) -> bool:
    """Whether this process may make files in the folder, or the folder itself if it is not there."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)
