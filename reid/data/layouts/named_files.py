"""Layouts of three folders whose files' names say person and camera: Market-1501, DukeMTMC-reID and VeRi-776.

Occluded-Duke (Miao et al., "Pose-Guided Feature Alignment for Occluded Person Re-identification", ICCV 2019) has the
folders and names of DukeMTMC-reID.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from reid.data.file_names import DUKEMTMC, MARKET1501, FileNames
from reid.data.layouts.layout import SPLITS, Find, Found, NamedImage
from reid.data.market1501 import list_folder
from reid.errors import DatasetError

MARKET_FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
VERI_FOLDERS = {"train": "image_train", "query": "image_query", "gallery": "image_test"}
VERI776 = FileNames(
    re.compile(r"(?P<person>\d{4,18})_c(?P<camera>\d{3})_\d+_\d+", flags=re.ASCII | re.IGNORECASE),
    "named as VeRi-776 names them; want PPPP_cCCC_FFFFFFFF_N.jpg, e.g. 0001_c001_00016450_0.jpg, "
    "or set dataset.file_name",
)
"""Liu et al., "A Deep Learning-Based Approach to Progressive Vehicle Re-identification", ECCV 2016."""


def tree_of(folders: Mapping[str, str]) -> str:
    """What the root has to hold, in words."""
    return f"the folders {', '.join(folders[split] for split in SPLITS)}"


def named_files(folders: Mapping[str, str], own: FileNames) -> Find:
    """Finds the images of these folders (split -> folder) by their `own` names, or by those of dataset.file_name."""
    return partial(_find, folders=folders, own=own)


def _find(
    root: Path, splits: Sequence[str], names: FileNames, *, folders: Mapping[str, str], own: FileNames
) -> dict[str, Found]:
    if names.pattern == MARKET1501.pattern:  # the default: it says nothing of other layouts
        names = replace(own, cameras=names.cameras)
    return {split: _folder(root / folders[split], names, tree=tree_of(folders)) for split in splits}


def _folder(folder: Path, names: FileNames, *, tree: str) -> Found:
    try:
        listing = list_folder(folder, names=names)
    except DatasetError as error:
        return Found(folder, names, error=f"{error}; want in {folder.parent} {tree}")
    images = tuple(NamedImage(image.file, str(image.person), str(image.camera)) for image in listing.split.images)
    return Found(folder, names, images, listing.misnamed, listing.strays)


MARKET1501_FILES = named_files(MARKET_FOLDERS, MARKET1501)
DUKEMTMC_FILES = named_files(MARKET_FOLDERS, DUKEMTMC)
VERI776_FILES = named_files(VERI_FOLDERS, VERI776)
