"""Databases that MLflow cannot use here are one sentence each, before MLflow tries for minutes."""

import sqlite3
from pathlib import Path

import pytest

from reid.errors import TrackingError
from reid.tracking.databases import other_schema, require_usable

WANT = "a file that can be written: MLFLOW_TRACKING_URI=sqlite:////folder/mlflow.db"
OLD, NEW = "0584bdc529eb", "ffffffffffff"


def refusal(uri: str) -> str:
    with pytest.raises(TrackingError) as caught:
        require_usable(uri)
    return str(caught.value)


@pytest.mark.parametrize(
    ("place", "found"),
    [
        ("folder", "is a folder"),
        ("notes.txt", "is no SQLite database: it begins with b'dear diary, dear'"),
        ("notes.txt/mlflow.db", "{folder}/notes.txt: File exists"),
    ],
)
def test_a_file_that_is_none_of_sqlite_is_named(tmp_path: Path, place: str, found: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").write_text("dear diary, " * 9)
    uri = f"sqlite:///{tmp_path}/{place}"
    assert refusal(uri) == f"MLflow at {uri}: {found.format(folder=tmp_path)}\n  want: {WANT}"


def test_a_file_or_folder_that_may_not_be_written_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, mode: path != tmp_path)
    assert refusal(f"sqlite:///{tmp_path}/a.db") == (
        f"MLflow at sqlite:///{tmp_path}/a.db: {tmp_path} cannot be written\n  want: {WANT}"
    )


def test_a_database_in_memory_would_be_lost() -> None:
    for uri in ("sqlite://", "sqlite:///:memory:"):
        assert refusal(uri) == f"MLflow at {uri}: names no file, and one in memory is lost\n  want: {WANT}"


def test_a_database_without_its_driver_names_the_package_and_no_password() -> None:
    assert refusal("mysql://reid:geheim@db/mlflow") == (
        "MLflow at mysql://reid:***@db/mlflow: no module MySQLdb, which this kind of database needs\n"
        "  want: pip install mysqlclient, or an MLflow server (https://…)"
    )
    assert refusal("postgresql://reid:geheim@db:no/mlflow") == (
        "MLflow at postgresql://reid:***@db:no/mlflow: invalid literal for int() with base 10: 'no'\n"
        "  want: MLFLOW_TRACKING_URI=sqlite:////folder/mlflow.db or https://host"
    )


def test_a_good_one_and_other_addresses_pass_and_the_folder_is_made(tmp_path: Path) -> None:
    require_usable(f"sqlite:///{tmp_path}/new/mlflow.db")
    with sqlite3.connect(tmp_path / "new" / "mlflow.db") as database:
        database.execute("create table runs (a)")
    require_usable(f"sqlite:///{tmp_path}/new/mlflow.db")
    require_usable("https://mlflow.example.org")


def test_tables_of_another_version_say_whether_they_are_older_or_newer() -> None:
    from mlflow import __version__ as version

    def said(revision: str) -> str:
        text = f"Detected out-of-date database schema (found version {revision}, but expected abc). Take a backup"
        return other_schema(text, "sqlite:////m.db")

    assert said(OLD) == (
        f"its tables are of an older version of MLflow ({OLD}) than {version}, which is installed; "
        "want: a backup of it, and then: mlflow db upgrade sqlite:////m.db; or another database"
    )
    assert said(NEW) == (
        f"its tables are of a newer version of MLflow ({NEW}) than {version}, which is installed; "
        "want: the version of MLflow that has made it, or another database"
    )
    assert other_schema("no such table", "sqlite:////m.db") == ""
