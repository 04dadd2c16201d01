"""Reads every image of a data set once, and keeps its hash, size, mode and sketch in an index by path, size and times.

A second look at an unchanged data set stats the files and opens none. A file whose size, modification or change time
differs is read again; so is every file that could not be read. `read_images` decodes what it reads, `hash_images` only
hashes it: their fingerprints are the same.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path

from reid.console.progress import Progress
from reid.data.image_file import EMPTY_FILE, UPRIGHT, Unreadable, decode, read_content
from reid.data.sketch import sketch
from reid.errors import ArtifactError
from reid.files.records import DamagedRecordError, read_json_record, read_or_set_aside, set_aside
from reid.files.writing import replacing

logger = logging.getLogger(__name__)

VERSION = 3
"""Version of the index file; a file of another version is read as empty."""
LARGEST_BYTES = 1 << 30
"""Of the index: some 4 million images."""
BATCH = 256
"""Files handed to the thread pool between two progress lines."""


@dataclass(frozen=True, slots=True)
class ImageFacts:
    """What is known of a file after one look. If it is unreadable, `error` says why and the other fields are empty."""

    sha256: str
    """SHA-256 of the bytes, "" if they cannot be read."""
    bytes: int
    width: int = 0
    """Width in pixels of the upright picture."""
    height: int = 0
    mode: str = ""
    """PIL's mode: RGB, L, P, RGBA, ..."""
    format: str = ""
    """The format of the bytes, whatever the name's ending: JPEG, PNG, ..."""
    error: str = ""
    orientation: int = UPRIGHT
    """The file's EXIF orientation, 1 to 8; 0 if the EXIF block is damaged."""
    look: str = ""
    """The picture in a few bytes, as `Sketch.look`; "" if it was not decoded."""
    contrast: float = 0.0
    """As `Sketch.contrast`."""
    sharpness: float = 0.0
    """As `Sketch.sharpness`."""


Stamp = tuple[int, int, int]
Index = dict[str, tuple[Stamp, ImageFacts]]


@dataclass
class _Version:
    version: int


@dataclass
class _IndexFile(_Version):
    files: Index


def read_image(path: Path) -> ImageFacts:
    """The facts of one file, which is decoded completely. It never raises because of what is wrong with the file."""
    facts, data = _hashed(path)
    if facts.error:
        return facts
    try:
        found = decode(data)
    except Unreadable as why:
        return replace(facts, error=str(why))
    return replace(
        facts,
        width=found.image.width,
        height=found.image.height,
        mode=found.mode,
        format=found.format,
        orientation=found.orientation,
        **sketch(found.image)._asdict(),
    )


def hash_image(path: Path) -> ImageFacts:
    """Hash and size of one file, which is not decoded: the other fields are empty. It never raises either."""
    return _hashed(path)[0]


def _hashed(path: Path) -> tuple[ImageFacts, bytes]:
    """Hash, size and content of a file; an error if there is no content."""
    try:
        data = read_content(path)
    except Unreadable as why:
        return ImageFacts("", 0, error=str(why)), b""
    return ImageFacts(hashlib.sha256(data).hexdigest(), len(data), error="" if data else EMPTY_FILE), data


def read_images(files: Mapping[str, Sequence[Path]], *, index_file: Path) -> dict[Path, ImageFacts]:
    """Facts of all files, given by split; only what the index does not know is opened.

    The index is rewritten if anything changed. If it cannot be written that is a warning, for it only saves time.
    """
    known = _load(index_file)
    stamps, facts = _facts(files, known=known, read=read_image)
    entries = {
        str(path): (stamp, facts[path])
        for path, stamp in stamps.items()
        if stamp and not facts[path].error and is_text(str(path))
    }
    if entries != known:
        _save(index_file, entries)
    return facts


def is_text(name: str) -> bool:
    """Whether a name is UTF-8; one of other bytes is in no record, for JSON cannot hold it."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def hash_images(files: Mapping[str, Sequence[Path]], *, index_file: Path) -> dict[Path, ImageFacts]:
    """Hash and size of all files, given by split; what the index knows is not opened, and nothing is decoded.

    The index stays as it is, for it holds decoded images only.
    """
    return _facts(files, known=_load(index_file), read=hash_image)[1]


def _facts(
    files: Mapping[str, Sequence[Path]], *, known: Index, read: Callable[[Path], ImageFacts]
) -> tuple[dict[Path, Stamp | None], dict[Path, ImageFacts]]:
    """Stamps and facts of all files: those of the index if size and times are the same, else those that are read."""
    # stamped before it is read: a file changed meanwhile is read again next time
    stamps = {path: _stamp(path) for paths in files.values() for path in paths}
    facts: dict[Path, ImageFacts] = {}
    for path, stamp in stamps.items():
        entry = known.get(str(path))
        if stamp and entry and entry[0] == stamp:
            facts[path] = entry[1]
    new = [path for path in stamps if path not in facts]
    logger.info("%d images, %d of them new or changed", len(stamps), len(new))
    facts.update(zip(new, _read_all(new, read)))
    return stamps, facts


def fingerprint(files: Mapping[str, Iterable[tuple[str, ImageFacts]]]) -> str:
    """sha256 over every split's name, file names and contents; the place of the folders does not count."""
    digest = hashlib.sha256()
    for split, images in sorted(files.items()):
        for name, facts in sorted(images, key=lambda entry: entry[0]):
            digest.update(json.dumps([split, name, facts.sha256]).encode())
    return digest.hexdigest()


def _read_all(paths: Sequence[Path], read: Callable[[Path], ImageFacts]) -> list[ImageFacts]:
    facts: list[ImageFacts] = []
    remaining = iter(paths)
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool, Progress("reading", len(paths)) as bar:
        while batch := list(islice(remaining, BATCH)):
            facts.extend(pool.map(read, batch))  # hashing and decoding release the interpreter lock
            bar.update(len(facts))
    return facts


def _stamp(path: Path) -> Stamp | None:
    """Size, modification and change time in ns; the last reveals a file replaced under its old modification time."""
    try:
        seen = path.stat()
    except OSError:
        return None
    return seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns


def _load(index_file: Path) -> Index:
    """What the index holds; empty if it is of another version, or damaged and set aside: every image is read then."""
    try:
        found = read_json_record(index_file, _IndexFile, largest_bytes=LARGEST_BYTES)
        return found.files if found.version == VERSION else {}
    except FileNotFoundError:
        return {}
    except DamagedRecordError:
        version = read_or_set_aside(index_file, _Version, largest_bytes=LARGEST_BYTES)
    if version is not None and version.version == VERSION:
        set_aside(index_file)
    return {}


def _save(index_file: Path, entries: Index) -> None:
    files = {path: [stamp, asdict(facts)] for path, (stamp, facts) in sorted(entries.items())}
    try:
        with replacing(index_file) as partial:
            partial.write_text(json.dumps({"version": VERSION, "files": files}), encoding="utf-8")
    except ArtifactError as error:
        logger.warning("the next run reads every image again: %s", error)
