"""Encryption at rest: what comes back, and what is refused."""

import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.errors import ArtifactError
from reid.files.encryption import CHUNK_BYTES, MAGIC, decrypt, encrypt, is_encrypted
from reid.files.secrets import encryption_key, key_to_environment
from reid.spec import load_spec
from reid.spec.secret import open_text

HEADER_BYTES = len(MAGIC) + 16 + 7


def write(path: Path, content: bytes, key: str = "open sesame") -> Path:
    with path.open("wb") as target:
        encrypt(io.BytesIO(content), target, key)
    return path


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 3 * CHUNK_BYTES])
def test_what_goes_in_comes_out(tmp_path: Path, size: int) -> None:
    content = bytes(range(256)) * (size // 256 + 1)
    path = write(tmp_path / "model", content[:size])
    assert is_encrypted(path)
    assert decrypt(path, "open sesame").read() == content[:size]
    assert content[:64] not in path.read_bytes() or size < 64


def test_a_wrong_key_is_one_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "model", b"weights")
    with pytest.raises(ArtifactError) as caught:
        decrypt(path, "open barley")
    assert str(caught.value) == f"{path}: the key is not the one it was encrypted with, or the file was changed"


def test_a_missing_key_is_one_clear_error(tmp_path: Path) -> None:
    path = write(tmp_path / "model", b"weights")
    with pytest.raises(ArtifactError) as caught:
        decrypt(path, None)
    assert str(caught.value) == (
        f"{path}: encrypted, and no key is given\n  want: encryption_key, or REID_ENCRYPTION_KEY set"
    )


@settings(max_examples=8, deadline=None)
@given(st.integers(min_value=len(MAGIC)), st.integers(min_value=1, max_value=255))
def test_any_changed_byte_is_noticed(tmp_path_factory: pytest.TempPathFactory, place: int, change: int) -> None:
    path = write(tmp_path_factory.mktemp("secure") / "model", b"some weights of a network")
    content = bytearray(path.read_bytes())
    content[len(MAGIC) + place % (len(content) - len(MAGIC))] ^= change
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match="the key is not the one it was encrypted with, or the file was changed"):
        decrypt(path, "open sesame")


@pytest.mark.parametrize("kept_chunks", [1, 2])
def test_a_file_cut_at_a_chunk_is_noticed(tmp_path: Path, kept_chunks: int) -> None:
    path = write(tmp_path / "model", bytes(3 * CHUNK_BYTES))
    path.write_bytes(path.read_bytes()[: HEADER_BYTES + kept_chunks * (CHUNK_BYTES + 16)])
    with pytest.raises(ArtifactError, match="the file was changed"):
        decrypt(path, "open sesame")


def test_the_environment_wins_over_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "")
    assert encryption_key() is None
    key_to_environment("spec")
    assert encryption_key() == "spec"
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "environment")
    key_to_environment("spec")
    assert encryption_key() == "environment"


def test_the_open_text_of_a_spec_holds_no_key() -> None:
    spec = load_spec(text="encryption_key: open sesame")
    assert "sesame" not in open_text(spec)
    assert load_spec(text=open_text(spec)).encryption_key is None
