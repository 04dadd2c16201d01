"""Sequences in MOTChallenge's layout: a film's frames as numbered images, and a text file with the boxes of persons.

Milan et al., "MOT16: A Benchmark for Multi-Object Tracking", arXiv:1603.00831, table 5. A row of gt/gt.txt reads

    frame, identity, left, top, width, height, considered, class, visibility

with boxes in pixels; `considered` 0 says that the box is to be ignored, class 1 is a pedestrian. The last three may be
missing. A row of ten fields (MOT15, AI City) has places in the world from the eighth field on: no class, no visibility.
"""

import configparser
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.data.market1501 import IMAGE_ENDINGS
from reid.errors import DatasetError

TRUTH = Path("gt") / "gt.txt"
FRAMES, INFO = "img1", "seqinfo.ini"
UNKNOWN = -1.0
"""What stands for an unknown class or visibility."""
FIELDS_WITH_PLACES = 10
NUMBER = re.compile(r"(\d+)$", re.ASCII)
WANTED = (
    "frame, identity, left, top, width, height, and if known considered, class, visibility: whole numbers from 0 for "
    "frame and identity, a box of some width and height in pixels, a visibility from 0 to 1"
)


@dataclass(frozen=True, slots=True)
class Box:
    """A row of gt.txt."""

    frame: int
    identity: int
    left: float
    top: float
    width: float
    height: float
    considered: bool = True
    kind: int | None = None
    """Its class, 1: pedestrian; None if the row names none."""
    visibility: float = 1.0


@dataclass(frozen=True)
class MotSequence:
    """The frames of one film, taken by one camera, and the boxes of persons in them."""

    folder: Path
    frames: Mapping[int, Path]
    """Number of a frame -> its image."""
    boxes: tuple[Box, ...]

    @property
    def name(self) -> str:
        """The folder's name."""
        return self.folder.name


def find_sequences(folders: Iterable[Path]) -> list[Path]:
    """The folders that have a gt/gt.txt, and of each other folder those right below it that have one, by name.

    Raises DatasetError if a folder is missing or has no sequence.
    """
    found: list[Path] = []
    for folder in folders:
        if (folder / TRUTH).is_file():
            found.append(folder)
            continue
        below = sorted(path.parents[1] for path in folder.glob(f"*/{TRUTH}"))
        if not below:
            what = "neither it nor a folder in it has a gt/gt.txt" if folder.is_dir() else "no such folder"
            raise DatasetError(f"{folder}: {what}\n  want: a sequence: {FRAMES}/000001.jpg ... and {TRUTH}")
        found += below
    if twice := [str(folder) for place, folder in enumerate(found) if folder in found[:place]]:
        raise DatasetError(f"{twice[0]}: named twice\n  want: each sequence once, for each is a camera of its own")
    return found


def read_sequence(folder: Path) -> MotSequence:
    """A sequence, of which no frame has been opened yet. Raises DatasetError for what is not as wanted."""
    frames = _frames(folder)
    return MotSequence(folder, frames, _boxes(folder / TRUTH, frames))


def _frames(folder: Path) -> dict[int, Path]:
    info = configparser.ConfigParser(interpolation=None)
    try:
        info.read(folder / INFO, encoding="utf-8-sig")
    except (configparser.Error, UnicodeDecodeError, OSError) as error:
        raise DatasetError(f"{folder / INFO}: cannot be read: {error}") from None
    images = folder / info.get("Sequence", "imDir", fallback=FRAMES)
    ending = info.get("Sequence", "imExt", fallback="").lower()
    endings = (ending,) if ending else IMAGE_ENDINGS
    if not images.is_dir():
        raise DatasetError(
            f"{images}: no such folder\n  want: the frames as images, e.g. from a video: "
            f"ffmpeg -i VIDEO -start_number 1 -qscale:v 2 {images}/%06d.jpg"
        )
    frames: dict[int, Path] = {}
    for path in sorted(images.iterdir()):
        number = NUMBER.search(path.stem)
        if path.name.startswith(".") or not path.name.lower().endswith(endings) or not number:
            continue
        if int(number[1]) in frames:
            raise DatasetError(f"{path}: has the number of {frames[int(number[1])].name}\n  want: one image a frame")
        frames[int(number[1])] = path
    if not frames:
        raise DatasetError(f"{images}: no frame\n  want: images named by their number, e.g. 000001{endings[0]}")
    return frames


def _boxes(file: Path, frames: Mapping[int, Path]) -> tuple[Box, ...]:
    boxes: dict[tuple[int, int], Box] = {}
    bad: list[str] = []
    try:
        lines = file.read_text(encoding="utf-8-sig", errors="replace").splitlines()
    except OSError as error:
        raise DatasetError(f"{file}: cannot be read: {error.strerror}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            box = _box(line)
        except ValueError:
            bad.append(f"line {number}\n  found: {line.strip()[:120]}\n  want:  {WANTED}")
            continue
        if box.frame not in frames:
            there = f"frames {min(frames)} to {max(frames)}, {len(frames):,} images"
            bad.append(f"line {number}\n  found: frame {box.frame}, of which there is no image\n  want:  {there}")
        elif (box.frame, box.identity) in boxes:
            found = f"identity {box.identity} for the second time in frame {box.frame}"
            bad.append(f"line {number}\n  found: {found}\n  want:  one box of each person in a frame")
        boxes[box.frame, box.identity] = box
    if bad:
        more = f"\n  and {len(bad) - 1:,} more such lines" if len(bad) > 1 else ""
        raise DatasetError(f"{file}, {bad[0]}{more}")
    return tuple(boxes.values())


def _box(line: str) -> Box:
    """Raises ValueError if a field is missing or out of its range."""
    fields = [float(field) for field in line.split(",")]
    if not 6 <= len(fields) <= 10 or not all(map(math.isfinite, fields)):
        raise ValueError
    frame, identity, left, top, width, height, *others = fields
    considered, *others = others or [1.0]
    kind, visibility = (*others, UNKNOWN, UNKNOWN)[:2] if len(fields) < FIELDS_WITH_PLACES else (UNKNOWN, UNKNOWN)
    whole = all(number == int(number) for number in (frame, identity, kind))
    known = 0 <= visibility <= 1 or visibility == UNKNOWN
    if not (whole and known and min(frame, identity) >= 0 and min(width, height) > 0):
        raise ValueError
    return Box(
        int(frame),
        int(identity),
        left,
        top,
        width,
        height,
        considered=considered != 0,
        kind=None if kind == UNKNOWN else int(kind),
        visibility=1.0 if visibility == UNKNOWN else visibility,
    )
