"""A data set from an archive: downloads that break, servers that misbehave, checksums that differ."""

import hashlib
import io
import json
from collections.abc import Iterator
from http.client import HTTPMessage
from pathlib import Path

import pytest

from reid.data import fetch
from reid.data.fetch import download, ensure_fetched
from reid.errors import ArtifactError, DatasetError
from tests.archive_server import ArchiveServer, serving
from tests.small_market import FOLDERS, NAMES, zip_market

CONTENT = bytes(range(256)) * 1000
SHA256 = hashlib.sha256(CONTENT).hexdigest()
OTHER = "0" * 64


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "FIRST_WAIT_S", 0.0)


@pytest.fixture
def server() -> Iterator[ArchiveServer]:
    with serving(CONTENT) as server:
        yield server


def refusal(server: ArchiveServer, target: Path, sha256: str = SHA256) -> str:
    with pytest.raises(DatasetError) as caught:
        download(server.url, target, sha256=sha256)
    return str(caught.value)


def test_a_file_is_downloaded_and_not_a_second_time(server: ArchiveServer, tmp_path: Path) -> None:
    for _ in range(2):
        download(server.url, tmp_path / "new" / "file.zip", sha256=SHA256.upper())
    assert (tmp_path / "new" / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None]


def test_a_broken_download_resumes_at_the_byte_at_which_it_stopped(server: ArchiveServer, tmp_path: Path) -> None:
    server.breaks_after = [1000, 70000]
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-", "bytes=71000-"]


def test_a_server_that_knows_no_ranges_sends_it_all_again(server: ArchiveServer, tmp_path: Path) -> None:
    server.breaks_after, server.ranges = [1000], False
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [None, "bytes=1000-"]


def test_a_server_out_of_order_is_asked_again(server: ArchiveServer, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert len(server.asked) == 4


def test_what_an_earlier_run_left_is_gone_on_with(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "file.zip.partial").write_bytes(CONTENT[:200_000])
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == ["bytes=200000-"]


@pytest.mark.parametrize("left", [b"of another file", CONTENT + b"and more"])
def test_what_was_left_of_another_file_is_thrown_away(server: ArchiveServer, tmp_path: Path, left: bytes) -> None:
    (tmp_path / "file.zip.partial").write_bytes(left)
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert server.asked == [f"bytes={len(left)}-", None]


def test_a_whole_file_that_was_only_not_renamed_yet_is_taken(server: ArchiveServer, tmp_path: Path) -> None:
    (tmp_path / "file.zip.partial").write_bytes(CONTENT)
    download(server.url, tmp_path / "file.zip", sha256=SHA256)
    assert server.asked == [f"bytes={len(CONTENT)}-"]


def test_a_wrong_checksum_is_refused_and_nothing_of_the_file_stays(server: ArchiveServer, tmp_path: Path) -> None:
    assert refusal(server, tmp_path / "file.zip", OTHER) == (
        f"{server.url}: not the wanted archive: another SHA-256\n"
        f"  found: {SHA256}\n  want:  {OTHER} (dataset.source.sha256)"
    )
    assert list(tmp_path.iterdir()) == []


def test_a_web_page_in_the_place_of_the_file_is_named_as_one(server: ArchiveServer, tmp_path: Path) -> None:
    server.content = b"<!DOCTYPE html><title>Are you sure?</title>"
    assert refusal(server, tmp_path / "file.zip").endswith(
        "\n  what came is a web page\n  want:  the address of the file itself"
    )


def test_a_missing_file_is_not_asked_for_again(server: ArchiveServer, tmp_path: Path) -> None:
    server.statuses = [404]
    assert refusal(server, tmp_path / "file.zip") == f"{server.url}: cannot be downloaded: HTTP 404 Not Found"
    assert len(server.asked) == 1


def test_a_download_that_brings_nothing_is_given_up_and_its_bytes_are_kept(
    server: ArchiveServer, tmp_path: Path
) -> None:
    server.breaks_after = [1000] + [0] * 6
    assert refusal(server, tmp_path / "file.zip") == (
        f"{server.url}: cannot be downloaded: 6 attempts in a row brought nothing\n"
        "  found: the connection broke after 1,000 of 256,000 bytes\n"
        f"  1,000 bytes are kept in {tmp_path}/file.zip.partial; the next run resumes from there"
    )
    assert (tmp_path / "file.zip.partial").read_bytes() == CONTENT[:1000]


def test_a_host_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"6 attempts in a row brought nothing\n  found: .*refused"):
        download("http://127.0.0.1:1/file.zip", tmp_path / "file.zip", sha256=SHA256)


def test_a_data_set_is_fetched_unpacked_and_left_alone_after(tmp_path: Path) -> None:
    archive = zip_market(tmp_path / "upload.zip")
    root, content = tmp_path / "data" / "market", archive.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    with serving(content) as server:
        server.breaks_after = [len(content) // 2]
        assert ensure_fetched(root, url=server.url, archive=None, sha256=digest)
        assert not ensure_fetched(root, url=server.url, archive=None, sha256=digest)
    for split, folder in FOLDERS.items():
        assert sorted(path.name for path in (root / folder).iterdir()) == sorted(NAMES[split])
    assert json.loads((root / "source.json").read_text()) == {"sha256": digest, "url": server.url}
    assert [path.name for path in root.parent.iterdir()] == ["market"], "the zip is not kept"


def test_a_local_archive_stays_in_its_place_and_is_checked_if_a_checksum_is_given(tmp_path: Path) -> None:
    archive, root = zip_market(tmp_path / "market.zip"), tmp_path / "market"
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    with pytest.raises(DatasetError) as caught:
        ensure_fetched(root, url=None, archive=archive, sha256=OTHER)
    assert str(caught.value) == (
        f"{archive}: not the wanted archive: another SHA-256\n"
        f"  found: {digest}\n  want:  {OTHER} (dataset.source.sha256)"
    )
    assert not root.exists()
    assert ensure_fetched(root, url=None, archive=archive, sha256=None)
    assert archive.exists()
    with pytest.raises(DatasetError) as caught:
        ensure_fetched(root, url=None, archive=archive, sha256=OTHER)
    assert str(caught.value) == (
        f"{root}: unpacked from another archive than dataset.source asks for\n  found: {digest}\n  want:  {OTHER}\n"
        "  do: remove the folder to have it fetched again, or name another one in dataset.source.root"
    )


def test_a_missing_local_archive_is_named(tmp_path: Path) -> None:
    with pytest.raises(DatasetError) as caught:
        ensure_fetched(tmp_path / "market", url=None, archive=tmp_path / "no.zip", sha256=None)
    assert (
        str(caught.value) == f"{tmp_path}/no.zip: no such file\n  want:  the data set's zip file in dataset.source.zip"
    )
    with pytest.raises(DatasetError, match=f"^{tmp_path}: a folder\n  want:  the data set's zip file"):
        ensure_fetched(tmp_path / "market", url=None, archive=tmp_path, sha256=None)


def test_a_folder_laid_out_by_hand_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "market").mkdir()
    assert not ensure_fetched(tmp_path / "market", url=None, archive=tmp_path / "no.zip", sha256=OTHER)
    assert list((tmp_path / "market").iterdir()) == []


def test_a_download_of_unknown_length_leaves_room_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "LEFT_FREE_BYTES", 1 << 60)
    partial, came = tmp_path / "file.zip.partial", io.BytesIO()
    with pytest.raises(ArtifactError) as caught:
        fetch._copied(io.BytesIO(b"endless"), came, partial, start=0, total=None)
    assert str(caught.value).startswith(
        f"{partial}: no room for the download, whose length the server does not say\n  found: "
    )
    assert came.getvalue() == b""


@pytest.mark.parametrize("length", ["\u00b2", "9" * 5000, "-1", "x", None])
def test_a_length_that_is_no_number_is_an_unknown_one(length: str | None) -> None:
    headers = HTTPMessage()
    if length:
        headers["Content-Length"] = length
    assert fetch._total(headers, 0) is None


@pytest.mark.parametrize("content", ["[]", "{", '{"sha256": 5, "url": null}'])
def test_a_damaged_note_of_the_archive_is_set_aside(tmp_path: Path, content: str) -> None:
    (tmp_path / "source.json").write_text(content)
    ensure_fetched(tmp_path, url=None, archive=None, sha256="0" * 64)
    assert [path.name for path in tmp_path.iterdir()] == ["source.json.damaged"]
