"""A data set from its archive: downloaded if it is not here, checked, and unpacked completely or not at all."""

import json
import logging
import re
import time
from dataclasses import dataclass
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from reid.console.progress import Progress
from reid.data.unpack import unpack
from reid.errors import DatasetError
from reid.files.hashes import file_sha256
from reid.files.locks import made_in_turn
from reid.files.records import read_or_set_aside
from reid.files.room import require_room

logger = logging.getLogger(__name__)

STAMP = "source.json"
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
ATTEMPTS = 6
"""Attempts in a row that bring no byte before the download is given up; its bytes are kept for the next run."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Seconds between attempts, from the first wait to the longest; each wait is twice the one before."""
LEFT_FREE_BYTES = 512 << 20
"""Bytes that stay free on the disk while a file of unknown length comes; such a file may have no end."""
PASSING = {408, 425, 429}
"""HTTP statuses, below those of server errors (500 and above), after which another attempt may succeed."""


def ensure_fetched(root: Path, *, url: str | None, archive: Path | None, sha256: str | None) -> bool:
    """Unpacks the data set into `root` if that is absent, from a local archive or a URL; returns whether it did.

    A folder that was laid out by hand is left as it is. Raises DatasetError if the archive cannot be read or
    downloaded, has another SHA-256, is no Market-1501 or not safe to unpack, or if `root` came from another archive.
    """
    if not root.exists():
        with made_in_turn(root):
            if not root.exists():
                _fetch(root, url=url, archive=archive, sha256=sha256)
                return True
    _check_stamp(root, sha256)
    return False


def _fetch(root: Path, *, url: str | None, archive: Path | None, sha256: str | None) -> None:
    zip_file = archive or root.with_name(f"{root.name}.zip")
    if archive is None:
        assert url is not None and sha256 is not None
        download(url, zip_file, sha256=sha256)
        digest = sha256.lower()
    else:
        if not zip_file.is_file():
            found = "a folder" if zip_file.is_dir() else "no such file"
            raise DatasetError(f"{zip_file}: {found}\n  want:  the data set's zip file in dataset.source.zip")
        digest = file_sha256(zip_file)
        if sha256 is not None and digest != sha256.lower():
            raise DatasetError(_wrong_archive(zip_file, digest, sha256))
    unpack(zip_file, root, stamp={STAMP: json.dumps({"sha256": digest, "url": url}) + "\n"})
    if archive is None:
        zip_file.unlink()


def download(url: str, target: Path, *, sha256: str) -> None:
    """Downloads `url` to `target`; a broken download is resumed, also one of an earlier run.

    Raises DatasetError if it cannot be downloaded or has another SHA-256.
    """
    if target.is_file() and file_sha256(target) == sha256.lower():
        return
    partial = target.with_name(f"{target.name}.partial")
    continued = partial.exists()
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _download_with_retries(url, partial)
        digest = file_sha256(partial)
        if digest != sha256.lower() and continued:
            logger.warning("%s: the partial download belongs to another file; downloading it again", target)
            partial.unlink()
            _download_with_retries(url, partial)
            digest = file_sha256(partial)
        if digest != sha256.lower():
            with partial.open("rb") as file:
                page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
            partial.unlink()
            raise DatasetError(
                _wrong_archive(url, digest, sha256)
                + ("\n  what came is a web page\n  want:  the address of the file itself" if page else "")
            )
        partial.replace(target)
    except OSError as error:
        raise DatasetError(f"{target}: cannot be written\n  found: {error.strerror or error}") from error


def _wrong_archive(source: str | Path, found: str, wanted: str) -> str:
    return (
        f"{source}: not the wanted archive: another SHA-256\n"
        f"  found: {found}\n"
        f"  want:  {wanted} (dataset.source.sha256)"
    )


@dataclass(frozen=True)
class _Source:
    """What a data set that was unpacked says about its archive; the content of STAMP."""

    sha256: str


def _check_stamp(root: Path, sha256: str | None) -> None:
    stamp = root / STAMP
    if sha256 is None or not stamp.is_file():
        return
    source = read_or_set_aside(stamp, _Source)
    found = source.sha256 if source else sha256.lower()
    if found != sha256.lower():
        raise DatasetError(
            f"{root}: unpacked from another archive than dataset.source asks for\n  found: {found}\n  want:  {sha256}\n"
            "  do: remove the folder to have it fetched again, or name another one in dataset.source.root"
        )


def _download_with_retries(url: str, partial: Path) -> None:
    """Downloads into `partial`, attempt after attempt; it gives up only after ATTEMPTS in a row that bring no byte."""
    failed = 0
    while True:
        before = _size(partial)
        try:
            return _attempt(url, partial)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, HTTPError):
                if error.code == 416 and before:  # there are no more bytes: the file is complete, or too long
                    return None
                if error.code < 500 and error.code not in PASSING:
                    raise DatasetError(f"{url}: cannot be downloaded: HTTP {error.code} {error.reason}") from error
            failed = 0 if _size(partial) > before else failed + 1
            if failed == ATTEMPTS:
                raise DatasetError(
                    f"{url}: cannot be downloaded: {ATTEMPTS} attempts in a row brought nothing\n  found: {error}\n"
                    f"  {_size(partial):,} bytes are kept in {partial}; the next run resumes from there"
                ) from error
            wait_s = min(FIRST_WAIT_S * 2 ** max(failed - 1, 0), LONGEST_WAIT_S)
            logger.warning("%s: %s; resuming from byte %d in %.2g s", url, error, _size(partial), wait_s)
            time.sleep(wait_s)


def _attempt(url: str, partial: Path) -> None:
    """One connection. Raises ConnectionError if it ends before the file does."""
    start = _size(partial)
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urlopen(request, timeout=TIMEOUT_S) as response:  # the spec allows http and https only
        resumes = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not resumes:
            start = 0
        total = _total(response.headers, start)
        with partial.open("ab" if resumes else "wb") as file:
            if total is not None:
                require_room(partial, total - start, purpose="for the download")
            done = start + _copied(response, file, partial, start=start, total=total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")


def _copied(response: IO[bytes], file: IO[bytes], partial: Path, *, start: int, total: int | None) -> int:
    """Copies the response to the file; returns the number of bytes that came."""
    done, what = 0, f"downloading {partial.name.removesuffix('.partial')}"
    with Progress(what, (total or 0) >> 20, unit="MiB", already_done=start >> 20) as progress:
        while chunk := response.read(CHUNK_BYTES):
            if total is None:
                require_room(partial, LEFT_FREE_BYTES, purpose="for the download, whose length the server does not say")
            file.write(chunk)
            done += len(chunk)
            if total:
                progress.update((start + done) >> 20)
    return done


def _total(headers: HTTPMessage, start: int) -> int | None:
    """Bytes of the whole file; None if the server does not say."""
    length = headers.get("Content-Length")
    return start + int(length) if length and re.fullmatch(r"[0-9]{1,18}", length) else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
