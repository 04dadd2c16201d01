"""A survey of each split of a data set: what its folder or list holds, and what each image file is."""

import hashlib
import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, TypeVar

from reid.data.file_index import ImageFacts, fingerprint, read_images
from reid.data.file_names import MARKET1501, UNKNOWN_CAMERA, FileNames
from reid.data.findings import EXAMPLES, Finding, Severity, SplitSummary, counted
from reid.data.market1501 import DISTRACTOR, JUNK, Listing, PersonImage, Split, list_folder
from reid.errors import DatasetError

logger = logging.getLogger(__name__)

SAMPLES = 14
"""Number of images of a split that the report shows."""
FIRST_NAMES = 3
"""Number of file names quoted if no name is as wanted."""

Key = TypeVar("Key")


@dataclass(frozen=True)
class ListedSplit:
    """A split of which no image has been opened."""

    name: str
    listing: Listing
    names: FileNames
    folder_error: str = ""
    """Why it could not be listed; the listing is empty then."""


@dataclass(frozen=True)
class SplitSurvey:
    """A split's listing with the facts of all its image files."""

    name: str
    listing: Listing
    facts: Mapping[str, ImageFacts]
    names: FileNames
    folder_error: str = ""
    """Why the folder could not be listed; the listing is empty then."""
    corrected: tuple[tuple[str, str, str], ...] = ()
    """(file, sha256, correction) of each correction that the listing already has."""

    @property
    def images(self) -> tuple[PersonImage, ...]:
        """The well-named images."""
        return self.listing.split.images

    @property
    def readable(self) -> list[PersonImage]:
        """The well-named images that can be decoded."""
        return [image for image in self.images if not self.facts[image.file].error]

    @property
    def misnamed(self) -> str:
        """How many images have other names than wanted, and which are wanted; "" if all names are as wanted."""
        bad, images = self.listing.misnamed, len(self.listing.files)
        if bad and len(bad) == images:
            return f"none of {counted(images, 'image')} is {self.names.wanted}; found {', '.join(bad[:FIRST_NAMES])}"
        return f"{len(bad)} of {images} images are not {self.names.wanted}" if bad else ""

    def without_unreadable(self) -> "tuple[SplitSurvey, list[Finding]]":
        """The survey without the images that cannot be decoded, and a warning that counts them."""
        bad = [image.file for image in self.images if self.facts[image.file].error]
        if not bad:
            return self, []
        message = f"{self.name}: {len(bad)} of {len(self.images)} images cannot be read; left out"
        examples = tuple(f"{self.name}/{file}: {self.facts[file].error}" for file in bad[:EXAMPLES])
        split = Split(self.listing.root, tuple(self.readable))
        return replace(self, listing=replace(self.listing, split=split)), [
            Finding("warning", "unreadable image", message, len(bad), examples)
        ]

    def finding(self, severity: Severity, check: str, message: str, files: Sequence[str]) -> Finding:
        """A finding about files of this split."""
        first = files[:EXAMPLES]
        shown = tuple(self.listing.root / file for file in first if file in self.facts and not self.facts[file].error)
        return Finding(severity, check, message, len(files), tuple(f"{self.name}/{file}" for file in first), shown)


Surveys = Mapping[str, SplitSurvey]


class ReadImages(Protocol):
    """Gives the facts of files that are listed by split: read_images or hash_images."""

    def __call__(self, files: Mapping[str, Sequence[Path]], *, index_file: Path) -> dict[Path, ImageFacts]:
        """The facts of each file."""


def survey_folders(
    folders: dict[str, str | None],
    *,
    missing: dict[str, str],
    names: FileNames,
    index_file: Path,
    read: ReadImages = read_images,
) -> Surveys:
    """Lists the folders and reads every image; a missing or closed folder is an empty split with its reason.

    read: read_images, or hash_images if no image need be decoded.
    """
    return survey(list_folders(folders, missing=missing, names=names), index_file=index_file, read=read)


def list_folders(
    folders: Mapping[str, str | None], *, missing: Mapping[str, str], names: FileNames
) -> dict[str, ListedSplit]:
    """The listings of folders (split -> folder); a missing or closed one is an empty split with its reason."""
    if names.without_cameras:
        logger.info(names.without_cameras)
    listed: dict[str, ListedSplit] = {}
    for name, folder in folders.items():
        root = Path(folder or "").absolute()
        empty = Listing(root, Split(root, ()), (), ())
        listed[name] = ListedSplit(name, empty, names, missing.get(name, ""))
        if name not in missing:
            try:
                listing = list_folder(root, names=names, unknown_camera=UNKNOWN_CAMERA[name])
                listed[name] = ListedSplit(name, listing, names)
            except DatasetError as error:
                listed[name] = ListedSplit(name, empty, names, str(error))
    return listed


def survey(listed: Mapping[Key, ListedSplit], *, index_file: Path, read: ReadImages) -> dict[Key, SplitSurvey]:
    """The surveys of the splits; all their images are read in one go, for the index holds those of one reading."""
    facts = read(
        {str(key): [part.listing.root / file for file in part.listing.files] for key, part in listed.items()},
        index_file=index_file,
    )
    return {
        key: SplitSurvey(
            part.name,
            part.listing,
            {file: facts[part.listing.root / file] for file in part.listing.files},
            part.names,
            part.folder_error,
        )
        for key, part in listed.items()
    }


def fingerprint_of(surveys: Surveys) -> str:
    """The data set's fingerprint: SHA-256 over all names and bytes.

    If the names do not follow Market-1501, persons and cameras count too, for they depend on the pattern; and so do
    corrections, if there are any.
    """
    found = _fingerprint_of_names_and_bytes(surveys)
    applied = [[name, *one] for name, split in sorted(surveys.items()) for one in split.corrected]
    return hashlib.sha256(json.dumps([found, applied]).encode()).hexdigest() if applied else found


def _fingerprint_of_names_and_bytes(surveys: Surveys) -> str:
    of_files = fingerprint(
        {name: [(file, split.facts[file]) for file in split.listing.files] for name, split in surveys.items()}
    )
    if all(split.names == MARKET1501 for split in surveys.values()):
        return of_files
    read = [[name, image.file, image.person, image.camera] for name, s in surveys.items() for image in s.images]
    return hashlib.sha256(json.dumps([of_files, read]).encode()).hexdigest()


def fingerprint_of_test_images(surveys: Surveys) -> str:
    """SHA-256 over the names and bytes of query and gallery: what was evaluated, whatever was trained on."""
    tested = {name: split for name, split in surveys.items() if name in {"query", "gallery"}}
    return fingerprint(
        {name: [(file, split.facts[file]) for file in split.listing.files] for name, split in tested.items()}
    )


def summarize(survey: SplitSurvey) -> SplitSummary:
    """The figures of one split, counted over its well-named images."""
    per_person = Counter(image.person for image in survey.images)
    sizes = Counter((survey.facts[image.file].width, survey.facts[image.file].height) for image in survey.readable)
    junk, distractors = per_person.pop(JUNK, 0), per_person.pop(DISTRACTOR, 0)
    per_camera = Counter(image.camera for image in survey.images)
    return SplitSummary(
        survey.name,
        survey.listing.root,
        images=len(survey.images),
        persons=len(per_person),
        cameras=len(per_camera),
        junk=junk,
        distractors=distractors,
        images_per_person=tuple(sorted(per_person.values())),
        images_per_camera=dict(sorted(per_camera.items())),
        sizes=dict(sorted(sizes.items(), key=lambda entry: (-entry[1], entry[0]))),
        samples=tuple(survey.listing.root / file for file in _samples(survey.readable)),
        cameras_per_person=_cameras_per_person(survey.images) if survey.names.cameras else (),
    )


def _cameras_per_person(images: Sequence[PersonImage]) -> tuple[int, ...]:
    """How many cameras see each person, ascending."""
    cameras: dict[int, set[int]] = {}
    for image in images:
        if image.person > DISTRACTOR:
            cameras.setdefault(image.person, set()).add(image.camera)
    return tuple(sorted(map(len, cameras.values())))


def _samples(images: Sequence[PersonImage]) -> list[str]:
    """One image each of SAMPLES persons, evenly spread, not always their first."""
    by_person: dict[int, list[PersonImage]] = {}
    for image in images:
        if image.person > DISTRACTOR:
            by_person.setdefault(image.person, []).append(image)
    persons = sorted(by_person)
    chosen = persons[:: max(1, len(persons) // SAMPLES)][:SAMPLES]
    return [by_person[person][place % len(by_person[person])].file for place, person in enumerate(chosen)]
