"""The decode-once store: every image of a split, resized, as one uint8 memory map on disk.

It is built at first use, under a name that depends on the data set's fingerprint, the size, the split's files and the
rules of reading images, and reused by every later epoch, stage and run.
Shapes: N images, H height, W width, C channels (3 = RGB, 1 = grey).
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid.console.progress import Progress
from reid.data.image_file import Unreadable, pixels_as_ever, read_content, read_picture
from reid.data.market1501 import Split
from reid.errors import ArtifactError, UnreadableImage
from reid.files.locks import LOCK, in_turn
from reid.files.room import require_room
from reid.files.writing import replacing

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 25
"""Bytes of images that are decoded together before they are written."""
MODE = {3: "RGB", 1: "L"}
Resize = Literal["bilinear", "bicubic"]
RESAMPLING: dict[Resize, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
READING_RULES = 2
"""Version of the rules by which images become pixels. Stores of version 1, plain PIL, had no version in their names."""


def open_store(
    split: Split, resize: Resize = "bilinear", /, *, height: int, width: int, channels: int, folder: Path, key: str
) -> NDArray[np.uint8]:
    """A read-only memory map (N, H, W, C) uint8; row i is the split's image i, resized as PIL does (antialiased).

    key: the data set's fingerprint. If several processes ask at once, one decodes and the others wait. resize: bilinear
    is how each image is resized that a trained model gets.
    Raises UnreadableImage if an image cannot be decoded, ArtifactError if the store cannot be written; no part of a
    store is left behind then.
    """
    shape = (len(split), height, width, channels)
    if not len(split):
        return np.empty(shape, np.uint8)
    names = [_name(split, shape, key=key, rules=rules, resize=resize) for rules in (READING_RULES, 1)]
    path, older = (folder / name for name in names)
    store = _open_existing(path, shape)
    if store is None and resize == "bilinear" and older.is_file():
        store = _take_over(older, path, split, shape)
    if store is None:
        with _only_one_builder(folder):
            store = _open_existing(path, shape)  # the process that held the lock may have built it
            if store is None:
                _build(path, split, shape, resize)
                store = _open_existing(path, shape)
    if store is None:
        raise ArtifactError(f"{path}: the store of decoded images was removed while it was opened")
    return store


def _name(split: Split, shape: tuple[int, ...], *, key: str, rules: int, resize: Resize) -> str:
    """The file's name; a split without its junk has another name than the whole split."""
    digest = hashlib.sha256(key.encode() if rules == 1 else f"{key} read by rules {rules}".encode())
    if resize != "bilinear":
        digest.update(f", resized by {resize}".encode())
    for image in split.images:
        digest.update(f"\n{image.file}".encode(errors="surrogateescape"))  # the name's own bytes
    size = "x".join(map(str, shape[1:]))
    return f"{split.root.name}-{size}-{digest.hexdigest()[:20]}.npy"


def _open_existing(path: Path, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The store; None if it is not there or damaged."""
    try:
        store: NDArray[np.uint8] = np.lib.format.open_memmap(path, mode="r")  # type: ignore[no-untyped-call]
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("%s: damaged (%s); the images are decoded again", path, error)
        return None
    if store.shape != shape or store.dtype != np.uint8:
        logger.warning(
            "%s: holds %s %s, not %s uint8; the images are decoded again", path, store.shape, store.dtype, shape
        )
        return None
    return store


def _take_over(older: Path, path: Path, split: Split, shape: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """A store of version 1, if its pixels are those of today's rules; it is given its new name too.

    They are unless an image is turned by its EXIF block or deeper than 8 bits.
    """
    with ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool:
        as_ever = all(pool.map(_is_read_as_ever, split.paths))
    if not as_ever:
        logger.info("%s: some of its images are read by other rules since; all are decoded again", older)
        return None
    with suppress(OSError):  # no right to write, no links on this disk, or another process was faster
        path.hardlink_to(older)
    return _open_existing(older, shape)


def _is_read_as_ever(path: Path) -> bool:
    try:
        return pixels_as_ever(read_content(path))
    except Unreadable:
        return False  # decoding it again reports it


@contextmanager
def _only_one_builder(folder: Path) -> Iterator[None]:
    """Holds the folder's lock; the system releases it if the process dies."""
    try:
        with in_turn(folder, work="decoding images into it"):
            yield
    except OSError as error:
        raise ArtifactError(
            f"{folder / LOCK}: the store of decoded images cannot be locked\n  found: {error.strerror or error}\n"
            "  want: a folder on a local disk that can be written; set dataset.store_dir"
        ) from None


def _build(path: Path, split: Split, shape: tuple[int, int, int, int], resize: Resize) -> None:
    """Writes the .npy block by block as a plain file.

    A full disk makes a write fail, but it kills a process that writes to a memory map.
    """
    images, height, width, channels = shape
    image_bytes = height * width * channels
    advice = "free some, or set dataset.store_dir to another disk"
    require_room(path, images * image_bytes, purpose="for the store of decoded images", advice=advice)
    rows = max(1, BLOCK_BYTES // image_bytes)
    block = np.empty((min(rows, images), height, width, channels), np.uint8)
    paths = split.paths

    def fill(row: int, file: Path) -> None:
        block[row] = decode(file, height=height, width=width, channels=channels, resize=resize)

    with (
        replacing(path) as partial,
        partial.open("wb") as file,
        ThreadPoolExecutor(max_workers=min(32, os.cpu_count() or 1)) as pool,
        Progress(f"decoding {split.root.name}", images) as progress,
    ):
        header = {"descr": "|u1", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)  # type: ignore[no-untyped-call]
        for start in range(0, images, rows):
            part = paths[start : start + rows]
            for _ in pool.map(fill, range(len(part)), part):  # PIL decodes and resizes without the interpreter lock
                pass
            file.write(block[: len(part)].data)
            progress.update(start + len(part))
        file.flush()
        os.fsync(file.fileno())  # a network disk reports only now that it is full
    logger.info("%s: %d images of %d x %d, %.0f MiB", path, images, width, height, path.stat().st_size / 2**20)


def decode(path: Path, *, height: int, width: int, channels: int, resize: Resize) -> NDArray[np.uint8]:
    """One image (H, W, C) of a validated data set, resized. Raises UnreadableImage if it cannot be read."""
    try:
        return read_resized(path, resize, height=height, width=width, channels=channels)
    except UnreadableImage as error:
        raise UnreadableImage(f"{error}; has it changed since the validate stage?") from error


def read_resized(
    path: Path, resize: Resize = "bilinear", /, *, height: int, width: int, channels: int
) -> NDArray[np.uint8]:
    """One image (H, W, C), resized. Raises UnreadableImage if it cannot be read."""
    converted = read_picture(path, mode=MODE[channels])
    if converted.size != (width, height):
        converted = converted.resize((width, height), RESAMPLING[resize])
    return np.asarray(converted, np.uint8).reshape(height, width, channels)
