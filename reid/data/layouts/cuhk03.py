"""CUHK03 by its new protocol: 767 persons to train on, 700 to test on, as torchreid and fast-reid write it.

Li et al., "DeepReID", CVPR 2014; the protocol is Zhong et al., CVPR 2017, arXiv:1701.08398. Its authors publish a .mat
file of images and one of indices. torchreid and fast-reid unpack them into images_detected and images_labeled and write
the split as splits_new_detected.json and splits_new_labeled.json: a list of one split, whose train, query and gallery
are lists of [path, person, camera]. That JSON is read here; of a path only the last part counts, because the folders
above it are those of the machine that wrote it. Train is numbered from 0 and test by its own numbers; the two cameras
of a person, the two views of a pair, are 0 and 1 there and 1 and 2 here.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

from reid.data.file_names import FileNames
from reid.data.layouts.layout import Found, NamedImage
from reid.data.layouts.listed_files import LISTED, Lines, names_of, read_text

IMAGES = {"splits_new_detected.json": "images_detected", "splits_new_labeled.json": "images_labeled"}
TREE = "images_detected and splits_new_detected.json, or images_labeled and splits_new_labeled.json"
HOW_TO_MAKE = "torchreid writes them: torchreid.data.datasets.image.CUHK03(root=FOLDER)"
WANTED_ENTRY = "some entries cannot be read; want [path, person, camera], e.g. [images_labeled/1_001_1_01.png, 0, 0]"


def find_cuhk03(root: Path, splits: Sequence[str], names: FileNames) -> dict[str, Found]:
    """The images of the splits of the one JSON in the root; the root may be that JSON itself, if there are two."""
    listed = replace(LISTED, cameras=names.cameras, no_cameras_because="" if names.cameras else "cameras is none")
    try:
        file = _split_file(root)
        content = _content(file)
    except ValueError as error:
        return {split: Found(root, listed, error=str(error)) for split in splits}
    return {split: _split(file, content, split, listed) for split in splits}


def _split_file(root: Path) -> Path:
    if root.is_file():
        if root.name not in IMAGES:
            raise ValueError(f"{root}: want {' or '.join(IMAGES)}, or the folder of it")
        return root
    there = [name for name in IMAGES if (root / name).exists()]
    if len(there) > 1:
        raise ValueError(f"{root}: found {' and '.join(there)}; want one of them as the root: {root / there[0]}")
    if not there:
        mat = names_of(root, [".mat"])
        found = f"found {', '.join(mat)}, which are not read here" if mat else "no splits_new_*.json"
        raise ValueError(f"{root}: {found}; want {TREE} ({HOW_TO_MAKE})")
    return root / there[0]


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(read_text(file))
    except json.JSONDecodeError as error:
        raise ValueError(f"{file}:{error.lineno}: not JSON: {error.msg}") from None
    except RecursionError:
        raise ValueError(f"{file}: not JSON: brackets nested too deeply") from None
    split = content[0] if isinstance(content, list) and len(content) == 1 else None
    if not isinstance(split, dict):
        raise ValueError(f"{file}: want a list of one split with train, query and gallery")
    return split


def _split(file: Path, content: dict[str, Any], split: str, names: FileNames) -> Found:
    folder = file.parent / IMAGES[file.name]
    entries = content.get(split)
    if not isinstance(entries, list):
        return Found(folder, names, error=f"{file}: no list {split!r}; want one of [path, person, camera]")
    lines = Lines(folder)
    for place, entry in enumerate(entries):
        match entry:
            case [str(path), int(person), int(camera)] if person >= 0 and camera >= 0:
                name = PurePosixPath(path.replace("\\", "/")).name
                lines.take(f"{file}: {split}[{place}]", NamedImage(name, str(person), str(camera + 1)))
            case _:
                lines.refuse(f"{file}: {split}[{place}]", repr(entry), check="bad entry", message=WANTED_ENTRY)
    return lines.found(names, lists=f"{file}")
