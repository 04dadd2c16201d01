"""One hash of a file, and one of many."""

import hashlib
from pathlib import Path

from reid.files.hashes import file_sha256, files_sha256


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 1_000_000)
    assert file_sha256(tmp_path / "a") == hashlib.sha256(b"x" * 1_000_000).hexdigest()


def test_the_hash_of_many_counts_names_contents_and_order(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    line_a = b"a\0" + hashlib.sha256(b"a").hexdigest().encode() + b"\n"
    line_b = b"b\0" + hashlib.sha256(b"b").hexdigest().encode() + b"\n"
    assert files_sha256(tmp_path, ["a", "b"]) == hashlib.sha256(line_a + line_b).hexdigest()
    assert files_sha256(tmp_path, ["b", "a"]) == hashlib.sha256(line_b + line_a).hexdigest()


def test_a_single_file_is_named_by_a_dot(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("a")
    line = b".\0" + hashlib.sha256(b"a").hexdigest().encode() + b"\n"
    assert files_sha256(tmp_path / "a", ["."]) == hashlib.sha256(line).hexdigest()
