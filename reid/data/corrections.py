"""Corrections of a data set: a file that says which images are left out, or are of another person or camera.

A CSV with a line for each correction; lines that begin with # are not read:

    image,sha256,correction
    train/0002_c1s1_000451_03.jpg,5f70bf18…,drop
    train/0007_c3s2_001013_01.jpg,9c1185a5…,person: 12
    msmt17: train/0000/0000_000_01_0303morning_0015_0.jpg,6b86b273…,camera: 4

The image is named as the findings of validate name it. The hash of its bytes stands beside it, so that no correction is
applied to another image of that name. The files themselves are never changed.
"""

import csv
import re
import stat
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

from reid.data.findings import EXAMPLES, Finding, counted
from reid.data.market1501 import DISTRACTOR, JUNK, PersonImage, Split
from reid.data.surveys import SplitSurvey
from reid.errors import DatasetError

HEAD = ("image", "sha256", "correction")
LARGEST_BYTES = 64 << 20
LARGEST_NUMBER = 2**31 - 1
IMAGE = re.compile(r"(?:(?P<set>[^:/]+): )?(?P<split>train|query|gallery)/(?P<file>.+)", re.DOTALL)
CORRECTION = re.compile(r"(?P<what>drop)|(?P<field>person|camera): ?(?P<number>-?\d{1,12})")
SHA256 = re.compile(r"[0-9a-f]{64}")
WANTED = "drop, person: N or camera: N"

Key = tuple[str, str]
"""(the name of a set, "" for the main one; the split)."""


@dataclass(frozen=True)
class Correction:
    """One line of the file."""

    line: int
    image: str
    """As the file names it: SPLIT/FILE, with "SET: " before it if it is of a set with a name."""
    key: Key
    file: str
    sha256: str
    what: str
    """drop, person or camera."""
    number: int = 0
    """The other person or camera."""

    @property
    def text(self) -> str:
        """As the file has it."""
        return self.what if self.what == "drop" else f"{self.what}: {self.number}"


class CorrectionsFile:
    """A file of corrections, and the errors that name its lines."""

    def __init__(self, path: Path) -> None:
        """Reads it. Raises DatasetError with the first line that cannot be read, or that another one contradicts."""
        self.path = path
        self.corrections = tuple(self._read())
        self._require_each_once()

    def refuse(self, line: int, what: str) -> NoReturn:
        """Raises DatasetError: FILE:LINE: what."""
        raise DatasetError(f"{self.path}:{line}: {what}")

    def of(self, key: Key) -> Sequence[Correction]:
        """The corrections of one split."""
        return [one for one in self.corrections if one.key == key]

    def _read(self) -> Iterator[Correction]:
        lines = self._lines()
        rows = csv.reader(text for _, text in lines)
        numbers = [number for number, _ in lines]
        seen_head = False
        try:
            for row in rows:
                line = numbers[rows.line_num - 1]
                if not seen_head:
                    seen_head = True
                    if tuple(cell.strip() for cell in row) != HEAD:
                        self.refuse(line, f"found {', '.join(row)[:100]!r}; want the columns {','.join(HEAD)}")
                else:
                    yield self._correction(line, row)
        except csv.Error as error:
            self.refuse(numbers[rows.line_num - 1] if numbers else 1, f"no line of a CSV: {error}")

    def _lines(self) -> list[tuple[int, str]]:
        """The lines that are read, numbered from 1. A name may hold any bytes, as names of files do."""
        try:
            if not stat.S_ISREG(self.path.stat().st_mode):
                raise DatasetError(f"{self.path}: no regular file (dataset.corrections)\n  want: a CSV of corrections")
            with self.path.open("rb") as file:
                content = file.read(LARGEST_BYTES + 1)
        except OSError as error:
            raise DatasetError(
                f"{self.path}: cannot be read: {error.strerror} (dataset.corrections)\n  want: a CSV of corrections"
            ) from None
        if len(content) > LARGEST_BYTES:
            raise DatasetError(f"{self.path}: larger than {LARGEST_BYTES >> 20} MiB\n  want: a CSV of corrections")
        text = content.decode("utf-8-sig", "surrogateescape").replace("\r\n", "\n")
        lines = enumerate(text.split("\n"), start=1)
        return [(number, line) for number, line in lines if line.strip() and not line.startswith("#")]

    def _correction(self, line: int, row: Sequence[str]) -> Correction:
        if len(row) != len(HEAD):
            self.refuse(line, f"found {counted(len(row), 'value')}; want {','.join(HEAD)}")
        image, sha256, text = row[0].lstrip(), row[1].strip(), row[2].strip()
        if not (named := IMAGE.fullmatch(image)):
            self.refuse(line, f"found the image {image[:200]!r}; want SPLIT/FILE, or SET: SPLIT/FILE")
        if not SHA256.fullmatch(sha256):
            self.refuse(line, f"found the sha256 {sha256[:100]!r}; want 64 digits of 0 to 9 and a to f")
        if not (asked := CORRECTION.fullmatch(text)):
            self.refuse(line, f"found the correction {text[:100]!r}; want {WANTED}")
        what, number = asked["what"] or asked["field"], int(asked["number"] or 0)
        key = named["set"] or "", named["split"]
        if what != "drop":
            least = 0 if what == "camera" else JUNK if key[1] == "gallery" else 1
            if not least <= number <= LARGEST_NUMBER:
                self.refuse(line, f"found {what} {number}; want {least} to {LARGEST_NUMBER} for an image of {key[1]}")
        return Correction(line, image, key, named["file"], sha256, what, number)

    def _require_each_once(self) -> None:
        earlier: dict[tuple[Key, str], dict[str, Correction]] = defaultdict(dict)
        for one in self.corrections:
            of_image = earlier[one.key, one.file]
            if same := of_image.get(one.what):
                how = "repeats" if same == replace(one, line=same.line) else "contradicts"
                self.refuse(one.line, f"{one.image}: {one.text} {how} line {same.line}, {same.text}")
            if of_image and "drop" in (one.what, *of_image):
                other = next(iter(of_image.values()))
                self.refuse(one.line, f"{one.image}: {one.text} contradicts line {other.line}, {other.text}")
            of_image[one.what] = one


def corrected(
    surveys: Mapping[Key, SplitSurvey], given: CorrectionsFile, *, sets: Collection[str]
) -> tuple[dict[Key, SplitSurvey], list[Finding]]:
    """The surveys with their corrections, and a note for each split that says how many.

    sets: the names of all sets, those that are not looked at included; their lines are not applied. Raises
    DatasetError, with the line, if an image is not there or has another hash, and if a query has lost its last match.
    """
    for one in given.corrections:
        if one.key[0] and one.key[0] not in sets:
            given.refuse(one.line, f"{one.image}: no set of this name; want one of {', '.join(sorted(sets)) or 'none'}")
    after = dict(surveys)
    notes = []
    for key, survey in surveys.items():
        lines = given.of(key)
        if lines and not survey.folder_error:
            after[key], note = _corrected_split(survey, lines, given)
            notes.append(note)
    for name in {name for name, _ in surveys}:
        if {(name, "query"), (name, "gallery")} <= surveys.keys():
            _require_matches(name, surveys, after, given)
    return after, notes


def _corrected_split(
    survey: SplitSurvey, lines: Sequence[Correction], given: CorrectionsFile
) -> tuple[SplitSurvey, Finding]:
    images = {image.file: image for image in survey.images}
    misnamed = dict.fromkeys(survey.listing.misnamed)
    for one in lines:
        _require_applicable(one, survey, given, named=one.file in images, listed=one.file in misnamed)
        if one.what == "drop":
            images.pop(one.file, None)
            misnamed.pop(one.file, None)
        elif one.what == "person":
            images[one.file] = replace(images[one.file], person=one.number)
        else:
            images[one.file] = replace(images[one.file], camera=one.number)
    listing = survey.listing
    listing = replace(listing, split=Split(listing.split.root, tuple(images.values())), misnamed=tuple(misnamed))
    applied = tuple(sorted((one.file, one.sha256, one.text) for one in lines))
    kinds = Counter(one.what for one in lines)
    said = {"drop": "left out", "person": "of another person", "camera": "of another camera"}
    counts = ", ".join(f"{kinds[what]:,} {words}" for what, words in said.items() if kinds[what])
    title = lines[0].image.removesuffix(f"/{lines[0].file}")
    examples = tuple(f"{one.image}: {one.text}" for one in lines[:EXAMPLES])
    message = f"{title}: {counted(len(lines), 'correction')} by {given.path}: {counts}"
    return replace(survey, listing=listing, corrected=applied), Finding(
        "note", "corrections", message, len(lines), examples
    )


def _require_applicable(
    one: Correction, survey: SplitSurvey, given: CorrectionsFile, *, named: bool, listed: bool
) -> None:
    if not named and not (listed and one.what == "drop"):
        found = "its name says no person, so that it can only be dropped" if listed else "no such image"
        given.refuse(one.line, f"{one.image}: {found}; want an image of {survey.listing.root}")
    found = survey.facts[one.file].sha256
    if found != one.sha256:
        given.refuse(
            one.line, f"{one.image}: the file is another one\n  found: sha256 {found}\n  want:  sha256 {one.sha256}"
        )
    if one.what == "camera" and not survey.names.cameras:
        given.refuse(one.line, f"{one.image}: cameras are unknown here (dataset.cameras); want drop or person: N")


def _require_matches(
    name: str, before: Mapping[Key, SplitSurvey], after: Mapping[Key, SplitSurvey], given: CorrectionsFile
) -> None:
    """Raises DatasetError if a query that had a match under another camera has none any more."""
    query, gallery = (name, "query"), (name, "gallery")
    lost = _without_match(after[query], after[gallery]) - _without_match(before[query], before[gallery])
    if not lost:
        return
    first = min(lost)
    persons = {image.person for side in (before, after) for image in side[query].images if image.file == first}
    was = {image.file: image.person for image in before[gallery].images}
    lines = [one for one in (*given.of(query), *given.of(gallery)) if one.file == first or was.get(one.file) in persons]
    given.refuse(
        max(lines, key=lambda one: one.line).line if lines else 1,
        f"query/{first} has no match in the gallery under another camera any more, nor have "
        f"{len(lost) - 1} other queries; want a query dropped too if its last match is"
        if len(lost) > 1
        else f"query/{first} has no match in the gallery under another camera any more; want it dropped too",
    )


def _without_match(query: SplitSurvey, gallery: SplitSurvey) -> set[str]:
    """The queries whose person the gallery does not show under another camera."""
    cameras: dict[int, set[int]] = defaultdict(set)
    for image in gallery.images:
        cameras[image.person].add(image.camera)

    def lonely(image: PersonImage) -> bool:
        return image.person > DISTRACTOR and not cameras[image.person] - {image.camera}

    return {image.file for image in query.images if lonely(image)}
