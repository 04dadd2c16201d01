"""The sets of a data set: one look at the main set, at several training sets, and at further test sets."""

import hashlib
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from reid.data.file_names import FileNames
from reid.data.findings import EXAMPLES, Finding
from reid.data.joint import Part, join
from reid.data.layouts.layout import LayoutName
from reid.data.layouts.named_files import MARKET_FOLDERS
from reid.data.layouts.table import read_set
from reid.data.market1501 import MAIN_SET, Listing, Manifest, Split, TestSet
from reid.data.surveys import ListedSplit, ReadImages, SplitSurvey, Surveys, fingerprint_of, list_folders, survey

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
        """Hash of all names, bytes, persons and cameras; that of a main set alone is the hash of its images."""
        main = fingerprint_of(self.surveys)
        if not self.train_sets and not self.test_sets:
            return main
        sets = [
            main,
            [[part.wanted.name, fingerprint_of({"train": part.survey})] for part in self.train_sets],
            [[part.wanted.name, fingerprint_of(part.surveys)] for part in self.test_sets],
        ]
        return hashlib.sha256(json.dumps(sets).encode()).hexdigest()

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
        tests = tuple(
            TestSet(part.wanted.name, *(part.surveys[name].listing.split for name in TEST_SPLITS))
            for part in self.test_sets
        )
        trained_on = tuple(self._trained_on())
        if not self.train_sets:
            train = self.surveys["train"].listing.split
            return Manifest(fingerprint, train, query, gallery, test_sets=tests, trained_on=trained_on)
        train, sets = join(
            [Part(part.wanted.name, part.survey.listing.split, part.wanted.share) for part in self.train_sets]
        )
        return Manifest(fingerprint, train, query, gallery, train_sets=sets, test_sets=tests, trained_on=trained_on)

    def _trained_on(self) -> Iterator[str]:
        """The names of the test sets that have the name or the place of a training set."""
        trained = [part.wanted for part in self.train_sets]
        names = {part.name for part in trained} or {MAIN_SET}
        places: set[Place | None] = {part.place for part in trained} or {self.main.home}
        tested = [(MAIN_SET, self.main.home), *((part.wanted.name, part.wanted.place) for part in self.test_sets)]
        for name, place in tested:
            if name in names or (place is not None and place in places):
                yield name


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
    wanted: dict[Place, list[str]] = {}
    for place, splits in (
        *([(main.place, main.splits)] if main.place else []),
        *((part.place, ("train",)) for part in train_sets),
        *((part.place, TEST_SPLITS) for part in test_sets),
    ):
        wanted.setdefault(place, []).extend(splits)
    listed: dict[tuple[Place | None, str], ListedSplit] = {}
    renamed: list[Finding] = []
    for place, splits in wanted.items():
        if place.names.without_cameras:
            logger.info("%s: %s", place.root, place.names.without_cameras)
        of_place, note = _list_place(place, list(dict.fromkeys(splits)))
        listed |= {(place, split): part for split, part in of_place.items()}
        renamed += note
    if not main.place:
        folders = {split: main.folders[split] for split in main.splits}
        found = list_folders(folders, missing=main.missing, names=main.names)
        listed |= {(None, split): part for split, part in found.items()}
    surveys = survey(listed, index_file=index_file, read=read)
    return SetsSeen(
        main,
        {split: surveys[main.place, split] for split in main.splits},
        tuple(TrainSurvey(part, surveys[part.place, "train"]) for part in train_sets),
        tuple(TestSurvey(part, {split: surveys[part.place, split] for split in TEST_SPLITS}) for part in test_sets),
        tuple(renamed),
    )


def _list_place(place: Place, splits: Sequence[str]) -> tuple[dict[str, ListedSplit], list[Finding]]:
    """The listed splits of a place, and a note if its persons are numbered anew."""
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
