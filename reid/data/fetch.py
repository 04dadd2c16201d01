"""A data set from its archive: downloaded where it is not here, checked, and unpacked whole or not at all."""

import json
import logging
import time
from http.client import HTTPException, HTTPMessage
from pathlib import Path
from typing import IO
from urllib.error import HTTPError, URLError
from urllib.request import Request, urlopen

from reid.console.progress import Progress
from reid.data.unpack import unpack
from reid.errors import DatasetError
from reid.files.hashes import file_sha256
from reid.files.room import require_room

logger = logging.getLogger(__name__)

STAMP = "source.json"
CHUNK_BYTES = 1 << 20
TIMEOUT_S = 60.0
ATTEMPTS = 6
"""In a row that bring no byte; after that the download is given up, and what there is of it kept for the next run."""
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 30.0
"""Between attempts; doubled each time."""
PASSING = {408, 425, 429}
"""HTTP statuses, besides the server's own (500 and above), after which another attempt may go well."""


def ensure_fetched(root: Path, *, url: str | None, archive: Path | None, sha256: str | None) -> bool:
    """Unpacks the data set into the folder `root` where that is absent, from a local archive or a URL; whether it did.

    A folder that was laid out by hand is left as it is. DatasetError where the archive cannot be had, is not the one
    with this SHA-256, is no Market-1501 or not safe to unpack, or where `root` was unpacked from another one.
    """
    if root.exists():
        _check_stamp(root, sha256)
        return False
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
            raise DatasetError(_another(zip_file, digest, sha256))
    unpack(zip_file, root, stamp={STAMP: json.dumps({"sha256": digest, "url": url}) + "\n"})
    if archive is None:
        zip_file.unlink()
    return True


def download(url: str, target: Path, *, sha256: str) -> None:
    """The file at `url` as `target`; a broken download goes on where it stopped, also one of an earlier run.

    DatasetError where it cannot be had, or is not the one with this SHA-256.
    """
    if target.is_file() and file_sha256(target) == sha256.lower():
        return
    partial = target.with_name(f"{target.name}.partial")
    continued = partial.exists()
    try:
        partial.parent.mkdir(parents=True, exist_ok=True)
        _patiently(url, partial)
        digest = file_sha256(partial)
        if digest != sha256.lower() and continued:
            logger.warning("%s: what was there of it belongs to another file; downloading anew", target)
            partial.unlink()
            _patiently(url, partial)
            digest = file_sha256(partial)
        if digest != sha256.lower():
            with partial.open("rb") as file:
                page = file.read(512).lstrip().lower().startswith((b"<!doctype html", b"<html"))
            partial.unlink()
            raise DatasetError(
                _another(url, digest, sha256)
                + ("\n  what came is a web page: the address of the file itself is wanted" if page else "")
            )
        partial.replace(target)
    except OSError as error:
        raise DatasetError(f"{target}: cannot be written\n  found: {error.strerror or error}") from error


def _another(where: str | Path, found: str, wanted: str) -> str:
    return (
        f"{where}: not the wanted archive: another SHA-256\n  found: {found}\n  want:  {wanted} (dataset.source.sha256)"
    )


def _check_stamp(root: Path, sha256: str | None) -> None:
    stamp = root / STAMP
    if sha256 is None or not stamp.is_file():
        return
    found = json.loads(stamp.read_text(encoding="utf-8"))["sha256"]
    if found != sha256.lower():
        raise DatasetError(
            f"{root}: unpacked from another archive than dataset.source asks for\n  found: {found}\n  want:  {sha256}\n"
            "  do: remove the folder to have it fetched again, or name another one in dataset.source.root"
        )


def _patiently(url: str, partial: Path) -> None:
    """Downloads into `partial`, in as many attempts as it takes; as long as bytes come there is no end to patience."""
    failed = 0
    while True:
        before = _size(partial)
        try:
            return _attempt(url, partial)
        except (URLError, HTTPException, ConnectionError, TimeoutError) as error:
            if isinstance(error, HTTPError):
                if error.code == 416 and before:  # nothing after what is there: whole, or too long
                    return None
                if error.code < 500 and error.code not in PASSING:
                    raise DatasetError(f"{url}: cannot be downloaded: HTTP {error.code} {error.reason}") from error
            failed = 0 if _size(partial) > before else failed + 1
            if failed == ATTEMPTS:
                raise DatasetError(
                    f"{url}: cannot be downloaded: {ATTEMPTS} attempts in a row brought nothing\n  found: {error}\n"
                    f"  {_size(partial):,} bytes are kept in {partial}; the next run goes on from there"
                ) from error
            wait_s = min(FIRST_WAIT_S * 2 ** max(failed - 1, 0), LONGEST_WAIT_S)
            logger.warning("%s: %s; going on from byte %d in %.2g s", url, error, _size(partial), wait_s)
            time.sleep(wait_s)


def _attempt(url: str, partial: Path) -> None:
    """One connection; ConnectionError where it ends before the file does."""
    start = _size(partial)
    request = Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    with urlopen(request, timeout=TIMEOUT_S) as response:  # the spec lets http and https through only
        going_on = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {start}-")
        if not going_on:
            start = 0
        total = _total(response.headers, start)
        with partial.open("ab" if going_on else "wb") as file:
            if total is not None:
                require_room(partial, total - start, purpose="for the download")
            done = start + _copied(response, file, partial, start=start, total=total)
    if total is not None and done < total:
        raise ConnectionError(f"the connection broke after {done:,} of {total:,} bytes")


def _copied(response: IO[bytes], file: IO[bytes], partial: Path, *, start: int, total: int | None) -> int:
    """Bytes that came."""
    done, what = 0, f"downloading {partial.name.removesuffix('.partial')}"
    with Progress(what, (total or 0) >> 20, unit="MiB", already_done=start >> 20) as progress:
        while chunk := response.read(CHUNK_BYTES):
            file.write(chunk)
            done += len(chunk)
            if total:
                progress.update((start + done) >> 20)
    return done


def _total(headers: HTTPMessage, start: int) -> int | None:
    """Bytes of the whole file, where the server says so."""
    length = headers.get("Content-Length")
    return start + int(length) if length and length.isdigit() else None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
