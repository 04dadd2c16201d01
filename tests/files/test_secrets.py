"""Secrets stay out of texts."""

import pytest

from reid.files.secrets import KEY_ENVIRONMENT, encryption_key, without_password


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://host:5000/a@b", "http://host:5000/a@b"),
        ("postgresql://me:p@ss@host/db and more@x", "postgresql://me:***@host/db and more@x"),
        ("postgresql+psycopg2://me:a:b@host/db", "postgresql+psycopg2://me:***@host/db"),
        ("cannot reach https://:x@host, nor http://u:p@h", "cannot reach https://:***@host, nor http://u:***@h"),
        (
            "postgresql://host/db?user=me&password=a:b&sslmode=require",
            "postgresql://host/db?user=me&password=***&sslmode=require",
        ),
        ("see https://host/x?Token=a,bc then y", "see https://host/x?Token=*** then y"),
        ("sqlite:////folder/with:colon@sign/mlflow.db", "sqlite:////folder/with:colon@sign/mlflow.db"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, shown: str) -> None:
    assert without_password(address) == shown


def test_a_line_end_is_no_part_of_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(KEY_ENVIRONMENT, "key \r\n")
    assert encryption_key() == "key "
    monkeypatch.setenv(KEY_ENVIRONMENT, "\n")
    assert encryption_key() is None
