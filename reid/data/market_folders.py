"""The three folders of Market-1501's layout: whether they are there, and how to get the data set if they are not.

Imports neither torch, PIL nor numpy: a missing data set is reported before anything heavy loads.
"""

import os
from collections.abc import Mapping
from pathlib import Path

from reid.errors import DatasetError

SPEC_FIELDS = {
    "train": "dataset.train_dataset_dir",
    "query": "dataset.query_dataset_dir",
    "gallery": "dataset.test_dataset_dir",
}
"""Split -> the spec field that names its folder."""
HOW_TO_GET = """\
How to get Market-1501 (Zheng et al., "Scalable Person Re-identification: A Benchmark", ICCV 2015):
  1. download the archive from its authors' home page, "Market-1501 Dataset" of the Zheng lab:
     https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html
  2. unpack it; of its folders these three are needed:
     bounding_box_train   12,936 images of 751 persons
     query                 3,368 images of 750 other persons
     bounding_box_test    19,732 images: those 750 persons, distractors (0000) and junk (-1)
  3. name the folders in the spec, or on the command line:
     dataset.train_dataset_dir=DIR/bounding_box_train
     dataset.query_dataset_dir=DIR/query
     dataset.test_dataset_dir=DIR/bounding_box_test
or, in place of 2 and 3, have it unpacked: dataset.source.zip=FILE dataset.source.root=DIR"""


def missing_folders(
    fields: Mapping[str, str] = SPEC_FIELDS,
    /,
    *,
    train: str | Path | None,
    query: str | Path | None,
    gallery: str | Path | None,
) -> list[tuple[str, str]]:
    """(split, what is wrong) of every folder that is not set, not there, or no folder.

    fields: split -> the field of the spec that names its folder, for the messages.
    """
    missing = []
    for split, folder in (("train", train), ("query", query), ("gallery", gallery)):
        field = fields[split]
        if folder is None or not str(folder):
            missing.append((split, f"{field} is not set"))
        elif not os.path.lexists(folder):
            missing.append((split, f"no such folder: {Path(folder).absolute()} ({field})"))
        elif not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir raises on a link to itself
            missing.append((split, f"not a folder: {folder} ({field})"))
    return missing


def require_folders(*, train: str | Path | None, query: str | Path | None, gallery: str | Path | None) -> None:
    """Raises DatasetError unless all three folders are there; it says which are not and how to get Market-1501."""
    require_data({"train": train, "query": query, "gallery": gallery}, roots={})


def require_data(folders: Mapping[str, str | Path | None], *, roots: Mapping[str, str | Path | None]) -> None:
    """Raises DatasetError unless all is there: the folders of Market-1501's layout (split -> folder) and other roots.

    roots: the field of the spec that names a root -> the root, which may be a file that lists images.
    """
    of_splits = missing_folders(**{"train": None, "query": None, "gallery": None, **folders})
    missing = [(split, what) for split, what in of_splits if split in folders]
    advice = f"\n{HOW_TO_GET}" if missing else ""
    for field, root in roots.items():
        if root is None:
            missing.append((field, "is not set, and dataset.layout needs it"))
        elif not os.path.lexists(root):
            missing.append((field, f"no such folder: {Path(root).absolute()}"))
    if missing:
        lines = "".join(f"\n  {name}: {what}" for name, what in missing)
        count = len(folders) + len(roots)
        noun = "folder" if count == 1 else "folders"
        raise DatasetError(f"the data set is not there: {len(missing)} of {count} {noun} missing{lines}{advice}")
