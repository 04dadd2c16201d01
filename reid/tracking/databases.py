"""Looks at the database of MLFLOW_TRACKING_URI before MLflow does, which tries for minutes or raises bare errors."""

import os
import re
from importlib.util import find_spec
from pathlib import Path

from reid.errors import TrackingError
from reid.files.secrets import without_password

DATABASES = ("sqlite", "postgresql", "mysql", "mssql")
SQLITE = b"SQLite format 3\x00"
"""The first bytes of each SQLite file."""
PACKAGES = {"MySQLdb": "mysqlclient", "psycopg": "'psycopg[binary]'", "psycopg2": "psycopg2-binary"}
"""Module of a driver -> the package that has it, if that has another name."""
OTHER_SCHEMA = re.compile(r"out-of-date database schema \(found version (\w+), but expected (\w+)\)")


def require_usable(tracking_uri: str) -> None:
    """Raises TrackingError if the address is of a database that MLflow cannot use here; makes the folder of a file."""
    if not tracking_uri.startswith(DATABASES):
        return
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError, NoSuchModuleError

    try:
        url = make_url(tracking_uri)
        dialect = url.get_dialect()
        dialect.import_dbapi()
    except ModuleNotFoundError as error:
        raise _unusable(
            tracking_uri,
            f"no module {error.name}, which this kind of database needs",
            f"pip install {PACKAGES.get(str(error.name), error.name)}, or an MLflow server (https://…)",
        ) from None
    except (ArgumentError, NoSuchModuleError, ValueError) as error:
        raise _unusable(
            tracking_uri, str(error).splitlines()[0], "MLFLOW_TRACKING_URI=sqlite:////folder/mlflow.db or https://host"
        ) from None
    if url.get_backend_name() == "sqlite":
        _require_file(tracking_uri, url.database or "")


def _require_file(tracking_uri: str, database: str) -> None:
    """Raises TrackingError if SQLite cannot read and write the file."""
    want = "a file that can be written: MLFLOW_TRACKING_URI=sqlite:////folder/mlflow.db"
    if not database or database == ":memory:":
        raise _unusable(tracking_uri, "names no file, and one in memory is lost", want)
    path = Path(database)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            raise _unusable(tracking_uri, "is a folder", want)
        with path.open("rb") as file:
            begin = file.read(len(SQLITE))
    except FileNotFoundError:
        begin = b""
    except OSError as error:
        raise _unusable(tracking_uri, f"{error.filename}: {error.strerror}", want) from None
    if begin not in (b"", SQLITE):
        raise _unusable(tracking_uri, f"is no SQLite database: it begins with {begin!r}", want)
    for needed in [path] * path.exists() + [path.parent]:
        if not os.access(needed, os.W_OK):
            raise _unusable(tracking_uri, f"{needed} cannot be written", want)


def other_schema(said: str, tracking_uri: str) -> str:
    """What is wrong and what is wanted if MLflow says that a database is of another version of it; else ""."""
    found = OTHER_SCHEMA.search(said)
    if not found:
        return ""
    from mlflow import __version__ as version

    older = _knows(found[1])
    want = (
        f"a backup of it, and then: mlflow db upgrade {tracking_uri}; or another database"
        if older
        else "the version of MLflow that has made it, or another database"
    )
    age = "an older" if older else "a newer"
    return f"its tables are of {age} version of MLflow ({found[1]}) than {version}, which is installed; want: {want}"


def _knows(revision: str) -> bool:
    """Whether the installed MLflow has the migration that leads to a revision of its tables."""
    store = find_spec("mlflow.store")
    folders = [Path(place) for place in (store.submodule_search_locations or [])] if store else []
    return any(next(folder.glob(f"db_migrations/versions/{revision}_*.py"), None) for folder in folders)


def _unusable(tracking_uri: str, found: str, want: str) -> TrackingError:
    return TrackingError(f"MLflow at {without_password(tracking_uri)}: {without_password(found)}\n  want: {want}")
