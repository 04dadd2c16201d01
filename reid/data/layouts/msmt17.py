"""MSMT17: two folders of images, and list files that say which image belongs to which person and split.

Wei et al., "Person Transfer GAN to Bridge Domain Gap for Person Re-Identification", CVPR 2018. A line reads
"0000/0000_000_01_0303morning_0015_0.jpg 0": the file below the folder of images, and its person. The third part of
the name is the camera. Train and test are both numbered from 0. list_val.txt, if it is there, belongs to the training:
the 32,621 training images of the paper are those of both lists.
"""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reid.data.file_names import FileNames
from reid.data.layouts.layout import Found, NamedImage
from reid.data.layouts.listed_files import LISTED, Lines, read_text

TREE = "train and test (V1), or mask_train_v2 and mask_test_v2 (V2), beside list_train.txt, list_query.txt and \
list_gallery.txt"
VERSIONS = ("MSMT17_V1", "MSMT17_V2")
FOLDERS = {"train": ("train", "mask_train_v2"), "test": ("test", "mask_test_v2")}
LISTS = {"train": ("list_train.txt", "list_val.txt"), "query": ("list_query.txt",), "gallery": ("list_gallery.txt",)}
OPTIONAL = "list_val.txt"
LINE = re.compile(r"(?P<file>\S.*?)[ \t]+(?P<person>\d{1,18})", re.ASCII)
NAME = re.compile(r"(?:.*/)?[^_/]+_[^_/]+_(?P<camera>\d{1,9})_[^/]*", re.ASCII)
WANTED_LINE = "some lines cannot be read; want FILE PERSON, e.g. 0000/0000_000_01_0303morning_0015_0.jpg 0"


def find_msmt17(root: Path, splits: Sequence[str], names: FileNames) -> dict[str, Found]:
    """The images of the splits, as the list files in the root, or in its folder MSMT17_V1 or MSMT17_V2, say."""
    versions = [root / version for version in VERSIONS if (root / version).is_dir()]
    listed = replace(LISTED, cameras=names.cameras, no_cameras_because="" if names.cameras else "cameras is none")
    if len(versions) > 1:
        error = f"{root}: found {' and '.join(VERSIONS)}; want one of them as the root"
        return {split: Found(root, listed, error=error) for split in splits}
    place = versions[0] if versions else root
    return {split: _split(place, split, listed) for split in splits}


def _split(root: Path, split: str, names: FileNames) -> Found:
    known = FOLDERS["train" if split == "train" else "test"]
    folder = next((root / name for name in known if (root / name).is_dir()), None)
    if folder is None:
        return Found(root, names, error=f"{root}: no folder {' or '.join(known)}; want {TREE}")
    lines = Lines(folder)
    for name in LISTS[split]:
        file = root / name
        if name == OPTIONAL and not file.exists():
            continue
        try:
            text = read_text(file)
        except ValueError as error:
            return Found(folder, names, error=f"{error}; want {TREE}")
        for row, line in enumerate(text.splitlines(), start=1):
            if line.strip():
                _take(lines, f"{file}:{row}", line.strip())
    return lines.found(names, lists=f"{root / LISTS[split][0]}")


def _take(lines: Lines, where: str, line: str) -> None:
    read = LINE.fullmatch(line)
    named = NAME.fullmatch(read["file"]) if read else None
    if read is None or named is None:
        lines.refuse(where, repr(line), check="bad line", message=WANTED_LINE)
    else:
        lines.take(where, NamedImage(read["file"], str(int(read["person"])), str(int(named["camera"]))))
