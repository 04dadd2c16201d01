"""One look at the images of the spec's data set, as the stages validate, manifest and evaluate take it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data.corrections import CorrectionsFile
from reid.data.file_names import file_names
from reid.data.findings import Finding
from reid.data.market_folders import missing_folders
from reid.data.sets import (
    MainSet,
    Place,
    SetsSeen,
    TestSurvey,
    WantedSet,
    evaluation_fingerprint,
    look_at_sets,
    look_at_test_sets,
    sets_trained_on,
)
from reid.data.surveys import ReadImages
from reid.errors import DatasetError
from reid.spec import Experiment
from reid.spec.dataset_sections import FurtherSet, TrainingSet


@dataclass(frozen=True)
class ImagesSeen:
    """What one look at the images has found."""

    sets: SetsSeen
    """The sets that were looked at, without the images that are left out."""
    fingerprint: str
    """Hash of the training images, those that are left out included, and of the main test set."""
    evaluation_fingerprint: str
    """Hash of the same and of the further test sets."""
    left_out: list[Finding]
    """The training images that cannot be decoded, if `dataset.corrupt_images` says that they are skipped."""
    corrected: list[Finding]
    """Notes on the corrections of `dataset.corrections`, which the sets have and both hashes follow."""


def missing_of(spec: Experiment) -> dict[str, str]:
    """Split -> what is wrong, for each folder of the main set that is named by a field of its own and is not there."""
    folders = spec.dataset.folders
    missing = missing_folders(**{"train": None, "query": None, "gallery": None, **folders})
    return {split: what for split, what in missing if split in folders}


def look_at_images(
    spec: Experiment, *, missing: Mapping[str, str], read: ReadImages, with_test_sets: bool
) -> ImagesSeen:
    """Lists the sets and reads their images by `read`; a missing folder (split -> why) is an empty split.

    Further test sets are looked at only `with_test_sets`. Raises DatasetError if the main set has a layout that needs
    dataset.root, and that is not set.
    """
    dataset = spec.dataset
    sets = look_at_sets(
        _main(spec, missing=missing),
        train_sets=[_wanted(part) for part in dataset.train_sets],
        test_sets=[_wanted(part) for part in dataset.test_sets] if with_test_sets else [],
        index_file=_index_file(spec),
        read=read,
    )
    notes: list[Finding] = []
    if given := _corrections(spec):
        sets, notes = sets.with_corrections(given, sets=_names_of_sets(spec))
    fingerprint = sets.fingerprint
    left_out: list[Finding] = []
    if dataset.corrupt_images == "skip":
        sets, left_out = sets.without_unreadable()
    return ImagesSeen(sets, fingerprint, evaluation_fingerprint(fingerprint, sets.test_sets), left_out, notes)


def look_at_further_sets(spec: Experiment, *, read: ReadImages) -> tuple[TestSurvey, ...]:
    """Lists the further test sets alone, with their corrections, and reads their images by `read`."""
    found = look_at_test_sets(
        [_wanted(part) for part in spec.dataset.test_sets], index_file=_index_file(spec), read=read
    )
    if given := _corrections(spec):
        alone = SetsSeen(_main(spec, missing={}), {}, test_sets=found)
        return alone.with_corrections(given, sets=_names_of_sets(spec))[0].test_sets
    return found


def trained_on(spec: Experiment) -> tuple[str, ...]:
    """The names of the test sets whose data set is also trained on; no image is listed."""
    return sets_trained_on(
        _main(spec, missing={}),
        train_sets=[_wanted(part) for part in spec.dataset.train_sets],
        test_sets=[_wanted(part) for part in spec.dataset.test_sets],
    )


def require_unchanged(found: str, wanted: str, *, stage: str) -> None:
    """Raises DatasetError if a stage has found another fingerprint than validate."""
    if found != wanted:
        raise DatasetError(
            f"the data set has changed between the stages validate and {stage}\n"
            f"  found: fingerprint {found}\n"
            f"  want:  fingerprint {wanted}, which validate has found; start the run again"
        )


def _main(spec: Experiment, *, missing: Mapping[str, str]) -> MainSet:
    dataset = spec.dataset
    by_root = dataset.layout != "market1501"
    if by_root and dataset.root is None:
        raise DatasetError(f"dataset.root: is not set; dataset.layout = {dataset.layout} needs it")
    names = file_names(dataset.file_name, cameras=dataset.cameras)
    return MainSet(
        Place(dataset.layout, Path(dataset.root).absolute(), names) if by_root and dataset.root else None,
        dataset.folders,
        missing,
        names,
        ("query", "gallery") if dataset.train_sets else ("train", "query", "gallery"),
    )


def _corrections(spec: Experiment) -> CorrectionsFile | None:
    return CorrectionsFile(Path(spec.dataset.corrections)) if spec.dataset.corrections else None


def _names_of_sets(spec: Experiment) -> set[str]:
    return {part.name for part in (*spec.dataset.train_sets, *spec.dataset.test_sets)}


def _index_file(spec: Experiment) -> Path:
    return Path(spec.store_dir) / "index.json"


def _wanted(part: FurtherSet) -> WantedSet:
    names = file_names(part.file_name, cameras=part.cameras)
    share = part.share if isinstance(part, TrainingSet) else None
    return WantedSet(part.name, Place(part.layout, Path(part.root).absolute(), names), share)
