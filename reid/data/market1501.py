"""The images of a data set: a folder of them in Market-1501's layout, and the manifest that later stages read.

Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015. A name reads PPPP_cCsS_FFFFFF_NN.jpg: person,
camera, sequence, frame, box; other patterns are in `file_names.py`. Person -1 is junk (a bad detection: neither right
nor wrong, evaluation drops it), 0000 a distractor (nobody: always wrong).

Imports neither torch nor PIL, and numpy only for the arrays: a missing data set is reported before anything
heavy loads.
"""

import json
import os
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.data.file_names import MARKET1501, FileNames
from reid.errors import ArtifactError, DatasetError
from reid.files.records import parse_json, read_plain_file, shown
from reid.files.writing import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

IMAGE_ENDINGS = (".jpg", ".jpeg", ".jfif", ".png", ".bmp", ".webp", ".tif", ".tiff")
LIKE_IMAGES = (
    *(".avif", ".dng", ".gif", ".heic", ".heif", ".j2k", ".jp2", ".jpe", ".jxl", ".nef", ".cr2"),
    *(".pgm", ".pnm", ".ppm", ".raw", ".tga"),
)
"""Endings of pictures that are not taken: who has half of a data set in one of them has to know it."""
SYSTEM_NAMES = {".ds_store", "thumbs.db", "ehthumbs.db", "desktop.ini", "@eadir", "__macosx", ".appledouble"}
"""Files and folders that macOS, Windows and network drives put everywhere; they are nobody's images."""
JUNK, DISTRACTOR = -1, 0


@dataclass(frozen=True, slots=True)
class PersonImage:
    """One cropped image of one person, as its name says."""

    file: str
    """Name relative to the split's root."""
    person: int
    """-1 junk, 0 distractor, otherwise the person's number."""
    camera: int
    """1 for a query and 2 for a gallery image if cameras are unknown."""


@dataclass(frozen=True)
class Split:
    """The images of one folder, sorted by file name; or of several sets, set after set. N images."""

    root: Path
    images: tuple[PersonImage, ...]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def person(self) -> "NDArray[np.int64]":
        """(N,) person of each image."""
        import numpy as np

        return np.fromiter((image.person for image in self.images), np.int64, len(self.images))

    @property
    def camera(self) -> "NDArray[np.int64]":
        """(N,) camera of each image."""
        import numpy as np

        return np.fromiter((image.camera for image in self.images), np.int64, len(self.images))

    @property
    def paths(self) -> list[Path]:
        """The N files, root included."""
        return [self.root / image.file for image in self.images]

    def without_junk(self) -> "Split":
        """The split without its junk (person -1) but with distractors: the images that evaluation ranks."""
        return self._filter(lambda image: image.person != JUNK)

    def of_persons(self) -> "Split":
        """The split without junk and distractors (person > 0): the images that training learns from."""
        return self._filter(lambda image: image.person > DISTRACTOR)

    def of(self, persons: Collection[int]) -> "Split":
        """The images of these persons."""
        return self._filter(lambda image: image.person in persons)

    def _filter(self, wanted: Callable[[PersonImage], bool]) -> "Split":
        return Split(self.root, tuple(image for image in self.images if wanted(image)))


@dataclass(frozen=True)
class Fault:
    """One kind of mistake in a file that lists images, however many lines show it."""

    check: str
    """Short name: "bad row", "missing image"."""
    message: str
    """What is wrong and what is wanted; it follows "train: "."""
    lines: tuple[str, ...]
    """FILE:LINE: what is there, for each."""


@dataclass(frozen=True)
class Listing:
    """The contents of a split's folder, sorted out by name alone: no file has been opened."""

    root: Path
    split: Split
    """The images whose names match the pattern."""
    misnamed: tuple[str, ...]
    """Images (by their ending) whose names do not match."""
    strays: tuple[str, ...]
    """Everything that is no image: Thumbs.db, names that begin with a dot, folders (with a trailing slash)."""
    faults: tuple[Fault, ...] = ()
    """What is wrong in the file that lists the images, if there is one."""

    @property
    def files(self) -> list[str]:
        """All image files, well named or not, sorted."""
        return sorted([*(image.file for image in self.split.images), *self.misnamed])


def list_folder(root: Path, *, names: FileNames = MARKET1501, unknown_camera: int = 1) -> Listing:
    """The listing of one folder, without the folders below it. Raises DatasetError if it cannot be listed."""
    images: list[PersonImage] = []
    misnamed: list[str] = []
    strays: list[str] = []
    try:
        with os.scandir(root) as entries:
            found = sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise DatasetError(f"{root}: the folder cannot be listed: {error.strerror}") from None
    for name, is_folder in found:
        if is_folder or name.startswith(".") or not name.lower().endswith(IMAGE_ENDINGS):  # ._a.jpg: macOS's shadow
            strays.append(f"{name}/" if is_folder else name)
        elif who := names.read(name, unknown_camera=unknown_camera):
            images.append(PersonImage(name, *who))
        else:
            misnamed.append(name)
    return Listing(root, Split(root, tuple(images)), tuple(misnamed), tuple(strays))


def is_of_a_system(name: str) -> bool:
    """Whether an operating system put it there: .DS_Store, Thumbs.db, @eaDir/, or ._NAME, macOS's shadow of a file."""
    return name.startswith("._") or name.rstrip("/").lower() in SYSTEM_NAMES


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself: listed as a file, and reported as unreadable when it is opened
        return False


@dataclass(frozen=True)
class TrainSet:
    """One of several training sets: its rows of the manifest's training images."""

    name: str
    first: int
    """Row of its first image."""
    count: int
    """Number of its images, which are consecutive rows."""
    share: float | None = None
    """Its share of a batch, relative to the shares of the other sets; None, for all sets alike: images are drawn as
    from one set. It is no part of the fingerprint, because the images are the same."""


@dataclass(frozen=True)
class TestSet:
    """A further test set: it has persons and cameras of its own, so that it is scored by itself."""

    __test__ = False  # pytest takes a class of this name for a test

    name: str
    fingerprint: str
    """Hash of its images: the manifest's own fingerprint is not of them."""
    query: Split
    gallery: Split
    """Junk included."""


MAIN_SET = "main"
LARGEST_MANIFEST = 1 << 30
"""Bytes: some 10 million images."""
"""The name of the main test set, query and gallery, beside the further ones."""


@dataclass(frozen=True)
class Manifest:
    """The data set as the later stages see it: which images, whose, and a fingerprint of their bytes."""

    fingerprint: str
    """Hash of the training images and of the main test set."""
    train: Split
    """The images of all training sets, one set after the other; persons and cameras differ between sets."""
    query: Split
    gallery: Split
    """Junk included."""
    train_sets: tuple[TrainSet, ...] = field(default=(), kw_only=True)
    """The sets that the training images come from; () if they are one set without a name."""
    test_sets: tuple[TestSet, ...] = field(default=(), kw_only=True)
    """The test sets beside query and gallery. In a pipeline only the stage evaluate adds them, so that another list of
    them trains nothing again."""
    trained_on: tuple[str, ...] = field(default=(MAIN_SET,), kw_only=True)
    """Names of the test sets whose data set is also trained on; they are of other persons."""
    test_images: str = field(default="", kw_only=True)
    """Hash of the names and bytes of query and gallery; empty in the manifest of an earlier version."""

    def save(self, path: Path) -> None:
        """Writes JSON, the same bytes for the same data set; missing folders above the file are created."""
        content: dict[str, object] = {"fingerprint": self.fingerprint}
        content |= {name: _split_to_json(getattr(self, name)) for name in ("train", "query", "gallery")}
        if self.train_sets:
            content["train_sets"] = [[part.name, part.first, part.count, part.share] for part in self.train_sets]
        if self.test_sets:
            content["test_sets"] = [
                {
                    "name": part.name,
                    "fingerprint": part.fingerprint,
                    "query": _split_to_json(part.query),
                    "gallery": _split_to_json(part.gallery),
                }
                for part in self.test_sets
            ]
        if self.test_images:
            content["test_images"] = self.test_images
        if self.train_sets or self.test_sets:
            content["trained_on"] = list(self.trained_on)
        body = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
        with replacing(path) as partial:
            partial.write_text(body + "\n", encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> "Manifest":
        """The manifest in a file. Raises ArtifactError if it is missing or no manifest."""
        try:
            body = parse_json(read_plain_file(path, largest_bytes=LARGEST_MANIFEST), source=path)
            return cls(
                str(body["fingerprint"]),
                *(_split_from_json(body[name]) for name in ("train", "query", "gallery")),
                train_sets=tuple(_train_set_from_json(entry) for entry in body.get("train_sets", [])),
                test_sets=tuple(_test_set_from_json(entry) for entry in body.get("test_sets", [])),
                trained_on=tuple(map(str, body.get("trained_on", [MAIN_SET]))),
                test_images=str(body.get("test_images", "")),
            )
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such data set manifest; the manifest stage writes it") from None
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
            raise ArtifactError(
                f"{path}: not a data set manifest ({type(error).__name__}: {error})\n"
                "  want: the file that the manifest stage writes"
            ) from None


def _train_set_from_json(entry: list[Any]) -> TrainSet:
    name, first, count, share = entry
    return TrainSet(str(name), int(first), int(count), None if share is None else float(share))


def _test_set_from_json(entry: dict[str, Any]) -> TestSet:
    query, gallery = (_split_from_json(entry[name]) for name in ("query", "gallery"))
    return TestSet(str(entry["name"]), str(entry["fingerprint"]), query, gallery)


def _split_to_json(split: Split) -> dict[str, object]:
    return {"root": str(split.root), "images": [[image.file, image.person, image.camera] for image in split.images]}


def _split_from_json(entry: dict[str, object]) -> Split:
    rows = entry["images"]
    if not isinstance(rows, Iterable):
        raise TypeError("images is no list")
    return Split(Path(_text(entry["root"])), tuple(PersonImage(_text(f), _number(p), _number(c)) for f, p, c in rows))


def _text(value: object) -> str:
    if not isinstance(value, str) or "\0" in value:
        raise TypeError(f"found {shown(value)}, want a text")
    return value


def _number(value: object) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or abs(value) >= 2**63:
        raise TypeError(f"found {shown(value)}, want a whole number")
    return value
