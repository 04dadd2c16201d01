"""One look at the three folders of the spec's data set, as the stages validate and manifest take it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data.file_names import file_names
from reid.data.findings import Finding, ReadImages, Surveys, fingerprint_of, survey_folders
from reid.spec import Experiment


@dataclass(frozen=True)
class ImagesSeen:
    """What one look at the folders has found."""

    surveys: Surveys
    """The three splits, without the images that are left out."""
    fingerprint: str
    """Hash of all images, those that are left out included."""
    left_out: list[Finding]
    """The training images that cannot be decoded, if `dataset.corrupt_images` says that they are skipped."""


def folders_of(spec: Experiment) -> dict[str, str | None]:
    """Split -> its folder; None if the spec names none."""
    return {
        "train": spec.dataset.train_dataset_dir,
        "query": spec.dataset.query_dataset_dir,
        "gallery": spec.dataset.test_dataset_dir,
    }


def look_at_images(spec: Experiment, *, missing: Mapping[str, str], read: ReadImages) -> ImagesSeen:
    """Lists the folders and reads their images by `read`; a missing folder (split -> why) is an empty split."""
    surveys = survey_folders(
        folders_of(spec),
        missing=dict(missing),
        names=file_names(spec.dataset.file_name, cameras=spec.dataset.cameras),
        index_file=Path(spec.store_dir) / "index.json",
        read=read,
    )
    fingerprint = fingerprint_of(surveys)
    left_out: list[Finding] = []
    if spec.dataset.corrupt_images == "skip":
        readable, left_out = surveys["train"].without_unreadable()
        surveys = {**surveys, "train": readable}
    return ImagesSeen(surveys, fingerprint, left_out)
