"""Makes a data set in Market-1501's layout from films with boxes of persons: `reid dataset crops`.

Every sequence is a camera. Persons of different sequences are different persons, unless the sequences share identities.
"""

import json
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from reid.console.progress import Progress
from reid.data.crop_choice import Area, Crop, Wanted, choose, split_persons
from reid.data.image_file import read_picture
from reid.data.mot_sequences import TRUTH, Box, MotSequence, find_sequences, read_sequence
from reid.errors import DatasetError
from reid.files.locks import made_in_turn

FOLDERS = {"train": "bounding_box_train", "query": "query", "gallery": "bounding_box_test"}
STAMP = "crops.json"
QUALITY = 95
"""Quality of the JPEGs; colours are kept at full resolution."""


@dataclass(frozen=True)
class Taken:
    """What was taken of one sequence."""

    sequence: MotSequence
    camera: int
    size: tuple[int, int]
    """Width and height of its frames."""
    chosen: list[tuple[Box, Area]]
    ignored: Counter[str]


@dataclass(frozen=True)
class Made:
    """The data set that was made."""

    taken: list[Taken]
    splits: Mapping[str, Sequence[Crop]]


def make_crops(
    root: Path,
    folders: Sequence[Path],
    *,
    wanted: Wanted,
    shared: bool,
    same_camera: bool,
    test_share: float,
    seed: int,
) -> Made:
    """Writes the data set into a new folder, which appears under its name when it is complete.

    shared: a number means the same person in all sequences. same_camera: the data set is for an evaluation that counts
    matches under the query's own camera. Raises DatasetError if the folder exists, if a sequence is not as wanted, or
    if too few persons are left to train and to score.
    """
    if os.path.lexists(root):
        raise DatasetError(f"{root}: exists already; crops are written into a new folder only")
    taken = [_take(folder, camera, wanted) for camera, folder in enumerate(find_sequences(folders), start=1)]
    _refuse_copies(taken)
    crops = _numbered(taken, shared=shared)
    splits = split_persons(crops, test_share=test_share, same_camera=same_camera, seed=seed)
    with made_in_turn(root):
        if os.path.lexists(root):
            raise DatasetError(f"{root}: exists already; another process has just made it")
        partial = root.with_name(f"{root.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            for folder in FOLDERS.values():
                (partial / folder).mkdir(parents=True)
            _write(partial, splits, {one.camera: one.size for one in taken})
            settings = {"shared_ids": shared, "same_camera": same_camera, "test_share": test_share, "seed": seed}
            (partial / STAMP).write_text(_stamp(taken, crops, wanted, settings), encoding="utf-8")
            partial.rename(root)
        except OSError as error:
            raise DatasetError(f"{root}: cannot be written\n  found: {error.strerror or error}") from error
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return Made(taken, splits)


def _take(folder: Path, camera: int, wanted: Wanted) -> Taken:
    sequence = read_sequence(folder)
    size = read_picture(next(iter(sequence.frames.values()))).size
    return Taken(sequence, camera, size, *choose(sequence, wanted, width=size[0], height=size[1]))


def _refuse_copies(taken: Sequence[Taken]) -> None:
    """MOT17 has each film three times, once for each detector; its persons would be three persons each."""
    seen: dict[tuple[Box, ...], Path] = {}
    for one in taken:
        boxes, folder = one.sequence.boxes, one.sequence.folder
        if boxes and boxes in seen:
            raise DatasetError(
                f"{folder / TRUTH}: the same boxes as {seen[boxes] / TRUTH}\n  want: each film once; of MOT17, "
                "which has each for three detectors, name those of one, e.g. MOT17/train/*-FRCNN"
            )
        seen[boxes] = folder


def _person_key(one: Taken, box: Box, *, shared: bool) -> tuple[int, int]:
    return (0 if shared else one.camera), box.identity


def _numbered(taken: Sequence[Taken], *, shared: bool) -> list[Crop]:
    """All crops, persons numbered from 1 by sequence and identity."""
    keys = sorted({_person_key(one, box, shared=shared) for one in taken for box, _ in one.chosen})
    person = {key: number for number, key in enumerate(keys, start=1)}
    return [
        Crop(person[_person_key(one, box, shared=shared)], one.camera, box.frame, one.sequence.frames[box.frame], area)
        for one in taken
        for box, area in one.chosen
    ]


def _write(root: Path, splits: Mapping[str, Sequence[Crop]], sizes: Mapping[int, tuple[int, int]]) -> None:
    """Cuts the crops out, each frame decoded once."""
    by_frame: dict[Path, list[tuple[str, Crop]]] = defaultdict(list)
    for split, crops in splits.items():
        for crop in crops:
            by_frame[crop.source].append((FOLDERS[split], crop))

    def cut(source: Path) -> None:
        frame = read_picture(source)
        for folder, crop in by_frame[source]:
            width, height = sizes[crop.camera]
            if frame.size != (width, height):
                raise DatasetError(
                    f"{source}: {frame.width} x {frame.height} pixels\n  want: {width} x {height}, "
                    "as the first frame of the sequence"
                )
            frame.crop(crop.area).save(root / folder / crop.file, "JPEG", quality=QUALITY, subsampling=0)

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, Progress("cutting out", len(by_frame), "frames") as progress:
        try:
            for done, _ in enumerate(pool.map(cut, by_frame), start=1):
                progress.update(done)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _stamp(taken: Sequence[Taken], crops: Sequence[Crop], wanted: Wanted, settings: Mapping[str, object]) -> str:
    """Where the data set comes from, as JSON: settings, cameras, and each person's sequences and identity."""
    boxes = [(one.sequence.name, box) for one in taken for box, _ in one.chosen]
    persons: dict[int, dict[str, int]] = defaultdict(dict)
    for crop, (name, box) in zip(crops, boxes, strict=True):
        persons[crop.person][f"c{crop.camera} {name}"] = box.identity
    body = {
        "settings": {**asdict(wanted), "classes": sorted(wanted.classes), **settings},
        "cameras": {
            str(one.camera): {
                "sequence": str(one.sequence.folder),
                "frames": len(one.sequence.frames),
                "boxes": len(one.sequence.boxes),
                "crops": len(one.chosen),
                "ignored": dict(sorted(one.ignored.items())),
            }
            for one in taken
        },
        "persons": {str(person): identities for person, identities in sorted(persons.items())},
    }
    return json.dumps(body, indent=2) + "\n"
