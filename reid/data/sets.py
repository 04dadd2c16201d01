"""The sets of a data set: one look at the main set, at several training sets, and at further test sets."""

import hashlib
import json
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from reid.data.corrections import CorrectionsFile, corrected
from reid.data.file_names import FileNames
from reid.data.findings import EXAMPLES, Finding
from reid.data.joint import Part, join
from reid.data.layouts.layout import LayoutName
from reid.data.layouts.named_files import MARKET_FOLDERS
from reid.data.layouts.table import read_set
from reid.data.market1501 import MAIN_SET, Listing, Manifest, Split, TestSet
from reid.data.surveys import (
    ListedSplit,
    ReadImages,
    SplitSurvey,
    Surveys,
    fingerprint_of,
    fingerprint_of_test_images,
    list_folders,
    survey,
)

logger = logging.getLogger(__name__)

TEST_SPLITS = ("query", "gallery")


@dataclass(frozen=True)
class Place:
    """Where a set is and how it is read; two sets of the same place are of one data set."""

    layout: LayoutName
    root: Path
    """Absolute."""
    names: FileNames


@dataclass(frozen=True)
class WantedSet:
    """A set that is looked at."""

    name: str
    place: Place
    share: float | None = None


@dataclass(frozen=True)
class MainSet:
    """The main set: a place, or the three folders of Market-1501's layout."""

    place: Place | None
    folders: Mapping[str, str | None]
    """Split -> its folder, if there is no place."""
    missing: Mapping[str, str]
    """Split -> why its folder is not there."""
    names: FileNames
    splits: Sequence[str]
    """Those that are read; without train if there are training sets."""

    @property
    def home(self) -> Place | None:
        """Its place; None if its folders are named one by one and do not lie in one folder, as in Market-1501."""
        if self.place:
            return self.place
        folders = [Path(self.folders[name] or "").absolute() for name in TEST_SPLITS]
        roots = {folder.parent for folder in folders}
        if len(roots) > 1 or [folder.name for folder in folders] != [MARKET_FOLDERS[name] for name in TEST_SPLITS]:
            return None
        return Place("market1501", roots.pop(), self.names)


@dataclass(frozen=True)
class TrainSurvey:
    """The training images of one of several training sets."""

    wanted: WantedSet
    survey: SplitSurvey


@dataclass(frozen=True)
class TestSurvey:
    """Query and gallery of a further test set."""

    __test__ = False  # pytest takes a class of this name for a test

    wanted: WantedSet
    surveys: Surveys

    @property
    def fingerprint(self) -> str:
        """Hash of its names, bytes, persons and cameras."""
        return fingerprint_of(self.surveys)

    @property
    def listed(self) -> TestSet:
        """The set as a manifest holds it."""
        query, gallery = (self.surveys[name].listing.split for name in TEST_SPLITS)
        return TestSet(self.wanted.name, self.fingerprint, query, gallery)


@dataclass(frozen=True)
class SetsSeen:
    """What one look at all sets has found."""

    main: MainSet
    surveys: Surveys
    """The splits of the main set."""
    train_sets: tuple[TrainSurvey, ...] = ()
    test_sets: tuple[TestSurvey, ...] = ()
    renamed: tuple[Finding, ...] = ()
    """Notes: which persons have other numbers than their layout gives them."""

    @property
    def fingerprint(self) -> str:
        """Hash of the names, bytes, persons and cameras of the main set and of the training sets.

        That of a main set without training sets is the hash of its images.
        """
        main = fingerprint_of(self.surveys)
        if not self.train_sets:
            return main
        sets = [main, [[part.wanted.name, fingerprint_of({"train": part.survey})] for part in self.train_sets]]
        return hashlib.sha256(json.dumps(sets).encode()).hexdigest()

    def with_corrections(self, given: CorrectionsFile, *, sets: Collection[str]) -> "tuple[SetsSeen, list[Finding]]":
        """The same with its corrections, and notes on them; see `corrected`."""
        parts: dict[tuple[str, str], SplitSurvey] = {("", split): found for split, found in self.surveys.items()}
        parts |= {(part.wanted.name, "train"): part.survey for part in self.train_sets}
        parts |= {(part.wanted.name, split): found for part in self.test_sets for split, found in part.surveys.items()}
        after, notes = corrected(parts, given, sets=sets)
        return replace(
            self,
            surveys={split: after["", split] for split in self.surveys},
            train_sets=tuple(replace(part, survey=after[part.wanted.name, "train"]) for part in self.train_sets),
            test_sets=tuple(
                replace(part, surveys={split: after[part.wanted.name, split] for split in part.surveys})
                for part in self.test_sets
            ),
        ), notes

    def without_unreadable(self) -> "tuple[SetsSeen, list[Finding]]":
        """The same without the training images that cannot be decoded, and a warning for each set that has some."""
        if not self.train_sets:
            readable, left_out = self.surveys["train"].without_unreadable()
            return replace(self, surveys={**self.surveys, "train": readable}), left_out
        parts, findings = [], []
        for part in self.train_sets:
            readable, left_out = part.survey.without_unreadable()
            parts.append(replace(part, survey=readable))
            findings += [of_set(finding, part.wanted.name) for finding in left_out]
        return replace(self, train_sets=tuple(parts)), findings

    def manifest(self, fingerprint: str) -> Manifest:
        """The manifest of all sets, the training sets joined."""
        query, gallery = (self.surveys[name].listing.split for name in TEST_SPLITS)
        tests = tuple(part.listed for part in self.test_sets)
        trained_on = sets_trained_on(
            self.main,
            train_sets=[part.wanted for part in self.train_sets],
            test_sets=[part.wanted for part in self.test_sets],
        )
        test_images = fingerprint_of_test_images(self.surveys)
        made = partial(Manifest, test_images=test_images, test_sets=tests, trained_on=trained_on)
        if not self.train_sets:
            train = self.surveys["train"].listing.split
            return made(fingerprint, train, query, gallery)
        train, sets = join(
            [Part(part.wanted.name, part.survey.listing.split, part.wanted.share) for part in self.train_sets]
        )
        return made(fingerprint, train, query, gallery, train_sets=sets)


def evaluation_fingerprint(fingerprint: str, test_sets: Sequence[TestSurvey]) -> str:
    """The hash of all that is evaluated: `fingerprint`, which is of the training and of the main set, and further sets.

    Without further test sets it is `fingerprint`.
    """
    if not test_sets:
        return fingerprint
    sets = [fingerprint, [[part.wanted.name, part.fingerprint] for part in test_sets]]
    return hashlib.sha256(json.dumps(sets).encode()).hexdigest()


def sets_trained_on(
    main: MainSet, *, train_sets: Sequence[WantedSet], test_sets: Sequence[WantedSet]
) -> tuple[str, ...]:
    """The names of the test sets, the main one included, that have the name or the place of a training set."""
    names = {part.name for part in train_sets} or {MAIN_SET}
    places: set[Place | None] = {part.place for part in train_sets} or {main.home}
    tested = [(MAIN_SET, main.home), *((part.name, part.place) for part in test_sets)]
    return tuple(name for name, place in tested if name in names or (place is not None and place in places))


def of_set(finding: Finding, name: str) -> Finding:
    """The finding with the name of its set before it."""
    return replace(
        finding,
        message=f"{name}: {finding.message}",
        examples=tuple(f"{name}: {example}" for example in finding.examples),
    )


def look_at_sets(
    main: MainSet,
    *,
    train_sets: Sequence[WantedSet],
    test_sets: Sequence[WantedSet],
    index_file: Path,
    read: ReadImages,
) -> SetsSeen:
    """Lists all sets and reads their images by `read`; what cannot be listed is an empty split with its reason."""
    listed, renamed = _list_trained(main, train_sets)
    listed_tests, notes = _list_tests(test_sets)
    surveys = survey({**listed, **listed_tests}, index_file=index_file, read=read)
    return SetsSeen(
        main,
        {split: surveys[main.place, split] for split in main.splits},
        tuple(TrainSurvey(part, surveys[part.place, "train"]) for part in train_sets),
        _tests_of(test_sets, surveys),
        (*renamed, *notes),
    )


def look_at_test_sets(test_sets: Sequence[WantedSet], *, index_file: Path, read: ReadImages) -> tuple[TestSurvey, ...]:
    """Lists further test sets alone; they are the same as if the other sets were looked at with them."""
    listed, _ = _list_tests(test_sets)
    return _tests_of(test_sets, survey(listed, index_file=index_file, read=read))


Key = tuple[Place | str | None, str]
"""(the place of a set, None for the folders of the main set; or the name of a further test set; the split)."""


def _tests_of(test_sets: Sequence[WantedSet], surveys: Mapping[Key, SplitSurvey]) -> tuple[TestSurvey, ...]:
    return tuple(TestSurvey(part, {split: surveys[part.name, split] for split in TEST_SPLITS}) for part in test_sets)


def _list_trained(main: MainSet, train_sets: Sequence[WantedSet]) -> tuple[dict[Key, ListedSplit], list[Finding]]:
    """The listed splits of the main set and of the training sets, and notes on persons that are numbered anew."""
    wanted: dict[Place, list[str]] = {}
    for place, splits in (
        *([(main.place, main.splits)] if main.place else []),
        *((part.place, ("train",)) for part in train_sets),
    ):
        wanted.setdefault(place, []).extend(splits)
    listed: dict[Key, ListedSplit] = {}
    renamed: list[Finding] = []
    for place, splits in wanted.items():
        of_place, note = _list_place(place, list(dict.fromkeys(splits)))
        listed |= {(place, split): part for split, part in of_place.items()}
        renamed += note
    if not main.place:
        folders = {split: main.folders[split] for split in main.splits}
        found = list_folders(folders, missing=main.missing, names=main.names)
        listed |= {(None, split): part for split, part in found.items()}
    return listed, renamed


def _list_tests(test_sets: Sequence[WantedSet]) -> tuple[dict[Key, ListedSplit], list[Finding]]:
    """The listed splits of further test sets, and notes on persons that are numbered anew.

    Each is numbered by itself, even in the place of another set: neither its numbers nor those of the other set depend
    on what else is looked at, so that the fingerprints do not either.
    """
    listed: dict[Key, ListedSplit] = {}
    renamed: list[Finding] = []
    for part in test_sets:
        of_place, note = _list_place(part.place, TEST_SPLITS)
        listed |= {(part.name, split): found for split, found in of_place.items()}
        renamed += [of_set(finding, part.name) for finding in note]
    return listed, renamed


def numbered_together(place: Place, surveys: Surveys) -> Surveys:
    """The surveys of splits of one place with one number for each person in all of them, and with their corrections.

    If the persons are numbered anew, an image that was corrected to a person whom its own set does not show is left
    out: nobody could say who that is in the other one.
    """
    numbered = read_set(place.layout, place.root, splits=list(surveys), names=place.names).numbered
    if not numbered.renamed:  # the numbers of the files hold in all splits, and corrections with them
        return surveys
    together = {}
    for split, found in surveys.items():
        number = {image.file: image.person for image in numbered.listings[split].split.images}
        corrected = {file for file, _, text in found.corrected if text.startswith("person")}
        whose = {image.person: number[image.file] for image in found.images if image.file not in corrected}
        images = tuple(replace(image, person=whose[image.person]) for image in found.images if image.person in whose)
        listing = replace(found.listing, split=Split(found.listing.root, images))
        together[split] = replace(found, listing=listing)
    return together


def _list_place(place: Place, splits: Sequence[str]) -> tuple[dict[str, ListedSplit], list[Finding]]:
    """The listed splits of a place, and a note if its persons are numbered anew."""
    if place.names.without_cameras:
        logger.info("%s: %s", place.root, place.names.without_cameras)
    found = read_set(place.layout, place.root, splits=splits, names=place.names)
    listed = {}
    for split, part in found.splits.items():
        listing = found.numbered.listings[split]
        if part.error:
            listing = Listing(part.root, Split(part.root, ()), (), ())
        listed[split] = ListedSplit(split, listing, part.names, part.error)
    renamed = found.numbered.renamed
    if not renamed:
        return listed, []
    examples = tuple(f"person {number}: {name}" for number, name in list(renamed.items())[:EXAMPLES])
    message = f"{place.root}: the persons are numbered anew, from 1; the examples say which person had which name"
    return listed, [Finding("note", "numbered anew", message, len(renamed), examples)]
