"""A CSV file with a row for each image: path, person, camera, split, in any order, under a header.

A path is relative to the folder of the CSV, with /. A person may have any name; -1 is junk. The split is train, query
or gallery. The column camera may be left out: cameras are then unknown. Other columns are not read.
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from reid.data.file_names import FileNames
from reid.data.layouts.layout import SPLITS, Found, NamedImage
from reid.data.layouts.listed_files import LISTED, Lines, names_of, read_text

TREE = "a CSV file with the columns path, person, camera, split, or the folder of one such file"
NEEDED = ("path", "person", "split")
BAD_ROW = "some rows cannot be read; want a path, a person, a camera if there is such a column, and train, query or \
gallery as the split"


def find_csv(root: Path, splits: Sequence[str], names: FileNames) -> dict[str, Found]:
    """The images of the splits; what is wrong with a row of no known split is reported with the first of the splits."""
    cameras = replace(LISTED, cameras=names.cameras, no_cameras_because="" if names.cameras else "cameras is none")
    try:
        file = _csv_file(root)
        rows = csv.DictReader(io.StringIO(read_text(file), newline=""), strict=True)
        columns = [column.strip() for column in rows.fieldnames or ()]
        missing = [column for column in NEEDED if column not in columns]
        if missing:
            found = ", ".join(columns) or "nothing"
            raise ValueError(
                f"{file}:1: no column {', '.join(missing)}; found {found}; want path, person, camera, split"
            )
        rows.fieldnames = columns
        if "camera" not in columns:
            cameras = replace(cameras, cameras=False, no_cameras_because="the CSV has no column camera")
        lines = {split: Lines(file.parent) for split in splits}
        for row in rows:
            _take(lines, f"{file}:{rows.line_num}", row, with_camera="camera" in columns)
    except (ValueError, csv.Error) as error:
        place = "" if isinstance(error, ValueError) else f"{file}:{rows.line_num}: no CSV: "
        return {split: Found(root, cameras, error=f"{place}{error}") for split in splits}
    return {split: collected.found(cameras, lists=f"{file}") for split, collected in lines.items()}


def _csv_file(root: Path) -> Path:
    if root.is_file():
        return root
    there = names_of(root, [".csv"])
    if len(there) != 1:
        found = f"found {', '.join(there)}" if there else "no CSV file" if root.is_dir() else "no such file or folder"
        raise ValueError(f"{root}: {found}; want {TREE}")
    return root / there[0]


def _take(lines: dict[str, Lines], where: str, row: dict[str | None, str | None], *, with_camera: bool) -> None:
    values = {column: (row.get(column) or "").strip() for column in (*NEEDED, "camera")}
    split = values["split"]
    if split not in SPLITS or not values["person"] or not values["path"] or (with_camera and not values["camera"]):
        shown = ", ".join(f"{column}={values[column]}" for column in values if with_camera or column != "camera")
        if split in lines or split not in SPLITS:
            lines.get(split, next(iter(lines.values()))).refuse(where, shown, check="bad row", message=BAD_ROW)
    elif split in lines:
        camera = values["camera"] if with_camera else None
        lines[split].take(where, NamedImage(values["path"], values["person"], camera))
