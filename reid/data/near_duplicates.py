"""Pictures that a data set has twice though their bytes differ: encoded again, resized, slightly cropped, lighter.

Two steps. The looks of all pictures are compared with each other, every pair, as a product of matrices: that gives the
pairs that may be copies. The files of those are read again and laid on each other (`alignment.py`): that decides. The
pairs of one person under one camera are not decided, for frames of a film are nearly the same by nature: they are
counted, as information.

Shapes: N pictures.
"""

import logging
from collections import defaultdict
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.data.alignment import Greys, Likeness, likeness
from reid.data.file_index import ImageFacts
from reid.data.findings import EXAMPLES, Finding, counted
from reid.data.image_file import read_picture
from reid.data.known_findings import known_or_found
from reid.data.market1501 import DISTRACTOR, JUNK, PersonImage
from reid.data.sketch import LEAST_CONTRAST, looks
from reid.data.surveys import SplitSurvey
from reid.errors import UnreadableImage

logger = logging.getLogger(__name__)

MAY_BE_COPIES = 0.8
"""Correlation of two looks from which the pictures are compared closely; a crop of 3 % at each side leaves 0.85."""
NEARLY_THE_SAME = 0.98
"""Correlation of the looks of two images of one person and camera from which they are counted."""
COMPARED_CLOSELY = 2000
"""Most pairs of a kind that are compared closely, the most alike first; each costs some milliseconds."""
BLOCK = 2048
"""Rows and columns of looks that are multiplied at a time."""

TRAIN_AND_TEST, TWO_PERSONS, FOUND_BY_ITSELF = "train and test", "two persons", "found by itself"
SEARCHED = (TRAIN_AND_TEST, TWO_PERSONS, FOUND_BY_ITSELF)


class Picture(NamedTuple):
    """An image and where it is."""

    title: str
    """The split, with the name of its set before it, if it has one."""
    split: str
    set_name: str
    root: Path
    image: PersonImage

    @property
    def name(self) -> str:
        """As examples name it."""
        return f"{self.title}/{self.image.file}"

    @property
    def path(self) -> Path:
        """The file."""
        return self.root / self.image.file


@dataclass(frozen=True)
class Copy:
    """Two pictures that are the same one."""

    first: Picture
    second: Picture
    likeness: Likeness


def near_duplicates(splits: Iterable[tuple[str, SplitSurvey]], *, known: Path | None = None) -> list[Finding]:
    """Findings about copies among all splits, each with the name of its set ("" for none): the worst kind first.

    Copies with equal bytes are the findings of `duplicates` and of `across_sets`, not of this. Junk is left out.
    known: a file that keeps the findings; if nothing has changed they are those of the last time.
    """
    pictures, facts = _pictures(splits)
    if known is None:
        return list(_found(pictures, facts))
    about = [
        (one.title, one.split, one.set_name, str(one.path), one.image.person, one.image.camera, fact.sha256)
        for one, fact in zip(pictures, facts, strict=True)
    ]
    return known_or_found(known, about=about, find=lambda: _found(pictures, facts))


def _found(pictures: Sequence[Picture], facts: Sequence[ImageFacts]) -> Iterator[Finding]:
    vectors = looks([one.look for one in facts])
    found = _candidates(vectors, _Codes.of(pictures, facts))
    for kind, candidates in found.items():
        copies = _copies(pictures, candidates.most_alike())
        if copies:
            yield _finding(kind, copies, left=max(0, candidates.count - COMPARED_CLOSELY))
    yield from _of_one_person(pictures, vectors)


def _pictures(splits: Iterable[tuple[str, SplitSurvey]]) -> tuple[list[Picture], list[ImageFacts]]:
    """The pictures that show enough to be compared, training images first, and the facts of each."""
    pictures: list[Picture] = []
    found: list[ImageFacts] = []
    seen: set[tuple[Path, str]] = set()
    for name, survey in sorted(splits, key=lambda entry: entry[1].name != "train"):
        title = f"{name}: {survey.name}" if name else survey.name
        for image in survey.readable:
            facts = survey.facts[image.file]
            known = (survey.listing.root / image.file, survey.name)
            if image.person != JUNK and facts.contrast >= LEAST_CONTRAST and known not in seen:
                seen.add(known)  # two sets may be of one folder
                pictures.append(Picture(title, survey.name, name, survey.listing.root, image))
                found.append(facts)
    return pictures, found


class _Codes(NamedTuple):
    """Numbers (N,) by which pairs are sorted out without a look at the pictures."""

    train: NDArray[np.bool_]
    query: NDArray[np.bool_]
    whose: NDArray[np.int64]
    """A number for each person of each set; distractors are one person."""
    set: NDArray[np.int64]
    camera: NDArray[np.int64]
    content: NDArray[np.int64]
    """Equal for equal bytes."""

    @classmethod
    def of(cls, pictures: Sequence[Picture], facts: Sequence[ImageFacts]) -> "_Codes":
        sets = [(one.set_name, one.split == "train") for one in pictures]
        return cls(
            np.array([one.split == "train" for one in pictures], bool),
            np.array([one.split == "query" for one in pictures], bool),
            _numbered([(home, one.image.person) for home, one in zip(sets, pictures)]),
            _numbered(sets),
            np.array([one.image.camera for one in pictures], np.int64),
            _numbered([one.sha256 for one in facts]),
        )

    def kinds(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> Iterator[tuple[str, NDArray[np.bool_]]]:
        """Each kind of pair, and which of these pairs are of it."""
        differ = self.content[one] != self.content[other]
        crossing = self.train[one] != self.train[other]
        yield TRAIN_AND_TEST, differ & crossing
        same_set = self.set[one] == self.set[other]
        same_person = self.whose[one] == self.whose[other]
        yield TWO_PERSONS, differ & ~crossing & same_set & ~same_person
        query = self.query[one] != self.query[other]
        another_camera = self.camera[one] != self.camera[other]
        yield FOUND_BY_ITSELF, differ & ~crossing & same_set & same_person & query & another_camera


def _numbered(values: Sequence[Hashable]) -> NDArray[np.int64]:
    """A number for each value, equal for equal ones."""
    numbers: dict[Hashable, int] = {}
    return np.array([numbers.setdefault(value, len(numbers)) for value in values], np.int64)


class _Candidates:
    """The pairs of one kind that are most alike; others are counted, so that memory is bounded."""

    def __init__(self) -> None:
        self.count = 0
        self._pairs = np.empty((0, 2), np.int64)
        self._values = np.empty(0, np.float32)

    def add(self, pairs: NDArray[np.int64], values: NDArray[np.float32]) -> None:
        """Adds pairs (P, 2) and the correlations (P,) of their looks."""
        self.count += len(pairs)
        self._pairs, self._values = np.concatenate([self._pairs, pairs]), np.concatenate([self._values, values])
        if len(self._values) > 8 * COMPARED_CLOSELY:
            self._sort()

    def most_alike(self) -> list[tuple[int, int]]:
        """At most COMPARED_CLOSELY pairs, the most alike first."""
        self._sort()
        return [(int(one), int(other)) for one, other in self._pairs]

    def _sort(self) -> None:
        order = np.lexsort((self._pairs[:, 1], self._pairs[:, 0], -self._values))[:COMPARED_CLOSELY]
        self._pairs, self._values = self._pairs[order], self._values[order]


def _candidates(vectors: NDArray[np.float32], codes: _Codes) -> dict[str, _Candidates]:
    """Kind -> the pairs whose looks are alike."""
    found = {kind: _Candidates() for kind in SEARCHED}
    total = len(vectors)
    with Progress("comparing pictures", total * total // 2, "pairs") as progress:
        done = 0
        for top in range(0, total, BLOCK):
            for left in range(top, total, BLOCK):
                alike = vectors[top : top + BLOCK] @ vectors[left : left + BLOCK].T
                row, column = np.divmod(np.flatnonzero(alike >= MAY_BE_COPIES), alike.shape[1])
                once = row + top < column + left
                row, column = row[once], column[once]
                pairs, values = np.stack([row + top, column + left], axis=1), alike[row, column]
                for kind, chosen in codes.kinds(pairs[:, 0], pairs[:, 1]):
                    if chosen.any():
                        found[kind].add(pairs[chosen], values[chosen])
                done += alike.size if left > top else alike.size // 2
                progress.update(done)
    return found


def _copies(pictures: Sequence[Picture], pairs: Sequence[tuple[int, int]]) -> list[Copy]:
    """The pairs that are the same picture."""
    greys: dict[int, Greys] = {}
    copies = []
    with Progress("comparing closely", len(pairs), "pairs") as progress:
        for done, (one, other) in enumerate(pairs, 1):
            try:
                for row in (one, other):
                    if row not in greys:
                        greys[row] = Greys(read_picture(pictures[row].path))
                found = likeness(greys[one], greys[other])
                if found.is_copy:
                    copies.append(Copy(pictures[one], pictures[other], found))
            except UnreadableImage as error:  # it was readable a moment ago
                logger.warning("left out of the comparison: %s", error)
            progress.update(done)
    return copies


def _finding(kind: str, copies: Sequence[Copy], *, left: int) -> Finding:
    """A warning with the copies that are most alike first."""
    copies = sorted(copies, key=lambda copy: (-copy.likeness.correlation, copy.first.name, copy.second.name))
    where = " and ".join(sorted({copy.second.title for copy in copies}))
    pictures = counted(len(copies), "pair") + " of pictures"
    message = {
        TRAIN_AND_TEST: f"TEST IMAGES IN TRAINING: {pictures} in train and {where} are the same one, encoded, resized, "
        "lit or cropped in another way; scores will be too good",
        TWO_PERSONS: f"{pictures} under different persons are the same one, encoded, resized, lit or cropped in "
        "another way; one of the two names is wrong",
        FOUND_BY_ITSELF: f"{pictures} in query and gallery, under different cameras by name, are the same one: the "
        "query will find itself, and scores will be too good",
    }[kind]
    if left:
        message += f" (the {COMPARED_CLOSELY:,} most alike pairs were compared closely, {left:,} others not)"
    shown = copies[: EXAMPLES // 2]
    return Finding(
        "warning",
        "near duplicates",
        message,
        len(copies),
        tuple(f"{copy.first.name} = {copy.second.name}" for copy in copies[:EXAMPLES]),
        tuple(path for copy in shown for path in (copy.first.path, copy.second.path)),
    )


def _of_one_person(pictures: Sequence[Picture], vectors: NDArray[np.float32]) -> Iterator[Finding]:
    """A note on images that are nearly the same as another one of their person, camera and split."""
    rows_of: dict[tuple[str, int, int], list[int]] = defaultdict(list)
    for row, one in enumerate(pictures):
        if one.image.person > DISTRACTOR:
            rows_of[one.title, one.image.person, one.image.camera].append(row)
    alike: dict[str, list[tuple[int, int]]] = defaultdict(list)  # split -> an image and the earlier one that it is like
    for (title, _, _), rows in rows_of.items():
        if len(rows) > 1:
            products = np.tril(vectors[rows] @ vectors[rows].T, -1)
            for place in np.flatnonzero(products.max(axis=1) >= NEARLY_THE_SAME):
                alike[title].append((rows[place], rows[int(products[place].argmax())]))
    for title, found in alike.items():
        message = (
            f"{title}: {counted(len(found), 'image')} nearly the same as another image of the same person and camera, "
            "as neighbouring frames of a film are; they add little"
        )
        examples = tuple(f"{pictures[one].name} ~ {pictures[other].name}" for one, other in found[:EXAMPLES])
        shown = tuple(pictures[row].path for pair in found[: EXAMPLES // 2] for row in pair)
        yield Finding("note", "neighbouring frames", message, len(found), examples, shown)
