"""The manifest of the folders that one task reads, without the validate stage's checks; other folders may be absent."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.data.file_names import MARKET1501, FileNames
from reid.data.findings import counted
from reid.data.market1501 import Manifest
from reid.data.market_folders import HOW_TO_GET, SPEC_FIELDS, missing_folders
from reid.data.no_images import found_instead
from reid.data.sets import SetsSeen
from reid.data.surveys import SplitSurvey, fingerprint_of, fingerprint_of_test_images, survey_folders
from reid.errors import DatasetError


@dataclass(frozen=True)
class Folder:
    """A split's folder, and the field of the spec that names it."""

    path: str | None
    field: str


def manifest_of(
    folders: Mapping[str, Folder], *, needed: Sequence[str], names: FileNames, index_file: Path
) -> Manifest:
    """The manifest of the splits train, query and gallery; one that is not needed is empty if its folder is missing.

    If all three folders are there, the fingerprint is the validate stage's, so that the decoded images are found again.
    Raises DatasetError, with all that is wrong, if a needed folder is missing or empty, or an image in it is misnamed
    or unreadable.
    """
    paths = {name: folder.path for name, folder in folders.items()}
    fields = {name: folder.field for name, folder in folders.items()}
    missing = dict(missing_folders(fields, **paths))
    absent = [f"\n  {name}: {missing[name]}" for name in needed if name in missing]
    if absent:
        market = names.pattern == MARKET1501.pattern and all(fields[name] == SPEC_FIELDS[name] for name in needed)
        advice = f"\n{HOW_TO_GET}" if market else ""
        raise DatasetError(
            f"the images are not there: {len(absent)} of {counted(len(needed), 'folder')} missing"
            f"{''.join(absent)}{advice}"
        )
    surveys = survey_folders(paths, missing=missing, names=names, index_file=index_file)
    _refuse([(name, surveys[name], fields[name]) for name in needed])
    train, query, gallery = (surveys[name].listing.split for name in ("train", "query", "gallery"))
    return Manifest(fingerprint_of(surveys), train, query, gallery, test_images=fingerprint_of_test_images(surveys))


def manifest_of_sets(seen: SetsSeen, *, needed: Sequence[str], field: str) -> Manifest:
    """The manifest of all sets; the splits that are `needed` of the main set and of each test set have to be sound.

    field: the field of the spec that names the main set. Training images may be absent, as for `manifest_of`. Raises
    DatasetError with all that is wrong.
    """
    wanted = [(name, seen.surveys[name], field) for name in needed]
    wanted += [
        (f"{part.wanted.name}: {name}", part.surveys[name], "dataset.test_sets")
        for part in seen.test_sets
        for name in needed
    ]
    _refuse(wanted)
    return seen.manifest(seen.fingerprint)


def _refuse(splits: Sequence[tuple[str, SplitSurvey, str]]) -> None:
    """Raises DatasetError if one of the splits, (name, survey, field of the spec), cannot be used."""
    wrong = [f"\n  {name}: {what}" for name, survey, field in splits for what in _objections(survey, field)]
    if wrong:
        raise DatasetError(f"the images cannot be used: {counted(len(wrong), 'error')}{''.join(wrong)}")


def _objections(survey: SplitSurvey, field: str) -> Iterator[str]:
    listing = survey.listing
    if survey.folder_error:
        yield survey.folder_error
    elif not listing.files and not listing.faults:
        yield f"no image in {listing.root} ({field}){found_instead(listing)}"
    for fault in listing.faults:
        yield f"{fault.message}\n    first: {fault.lines[0]}"
    if survey.misnamed:
        yield f"{survey.misnamed}\n    first: {listing.root / listing.misnamed[0]}"
    if bad := [file for file in listing.files if survey.facts[file].error]:
        first = f"{listing.root / bad[0]}: {survey.facts[bad[0]].error}"
        yield f"{len(bad)} of {len(listing.files)} images cannot be read\n    first: {first}"
