"""Which boxes of a sequence become images, and which persons train, ask and are searched."""

import math
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from reid.data.mot_sequences import Box, MotSequence
from reid.errors import DatasetError

Area = tuple[int, int, int, int]
"""Left, top, right, bottom in pixels; the right column and the bottom row are outside."""


@dataclass(frozen=True)
class Wanted:
    """Which boxes are wanted."""

    every: int
    """1: every frame, 10: frames 1, 11, 21, ..."""
    min_height: int
    """In pixels, of the part of the box that lies in the frame."""
    min_visibility: float
    """Least visible share of a person, and least share of the box that lies in the frame."""
    classes: frozenset[int]
    """Empty: any. A row without a class is a person."""
    padding: float
    """Share of the box's width and height that is added on each side, as far as the frame goes."""


@dataclass(frozen=True, slots=True)
class Crop:
    """An image that is cut out of a frame."""

    person: int
    camera: int
    frame: int
    source: Path
    area: Area

    @property
    def file(self) -> str:
        """Its name in Market-1501's manner."""
        return f"{self.person:04d}_c{self.camera}s1_{self.frame:06d}_01.jpg"


def choose(
    sequence: MotSequence, wanted: Wanted, *, width: int, height: int
) -> tuple[list[tuple[Box, Area]], Counter[str]]:
    """The wanted boxes with what is cut out, and why how many others are not wanted; width and height of a frame."""
    chosen: list[tuple[Box, Area]] = []
    ignored: Counter[str] = Counter()
    for box in sequence.boxes:
        inside = _inside(box, width=width, height=height)
        if reason := _objection(box, inside, wanted):
            ignored[reason] += 1
        else:
            chosen.append((box, _inside(box, width=width, height=height, padding=wanted.padding)))
    return chosen, ignored


def _objection(box: Box, inside: Area, wanted: Wanted) -> str:
    """Why a box is not wanted; "" if it is."""
    left, top, right, bottom = inside
    if not box.considered:
        return "marked as ignored"
    if box.kind is not None and wanted.classes and box.kind not in wanted.classes:
        return "of another class"
    if (box.frame - 1) % wanted.every:
        return "between the frames that are taken"
    if box.visibility < wanted.min_visibility:
        return f"visible by less than {wanted.min_visibility:g}"
    least_share = min(wanted.min_visibility, 0.99)  # not 1, because corners are rounded
    if right <= left or bottom <= top or (right - left) * (bottom - top) < least_share * box.width * box.height:
        return "outside the frame or mostly so"
    return f"lower than {wanted.min_height} pixels" if bottom - top < wanted.min_height else ""


def _inside(box: Box, *, width: int, height: int, padding: float = 0.0) -> Area:
    """The part of the padded box that lies in the frame; empty or turned inside out if none does."""
    across, down = padding * box.width, padding * box.height
    left, right = _rounded(box.left - across), _rounded(box.left + box.width + across)
    top, bottom = _rounded(box.top - down), _rounded(box.top + box.height + down)
    return max(0, left), max(0, top), min(width, right), min(height, bottom)


def _rounded(place: float) -> int:
    return math.floor(place + 0.5)


def split_persons(crops: Sequence[Crop], *, test_share: float, same_camera: bool, seed: int) -> dict[str, list[Crop]]:
    """The crops of the splits train, query and gallery: `test_share` of the persons is for the test, drawn by the seed.

    A query is one image of a test person under each camera that has another image of the person. Test persons that no
    query could find, because they are seen by one camera only, stay in the gallery as others.
    same_camera: images under the query's own camera count as matches. Raises DatasetError if there is nothing to score.
    """
    views: dict[int, dict[int, list[Crop]]] = defaultdict(lambda: defaultdict(list))
    for crop in sorted(crops, key=lambda crop: (crop.person, crop.camera, crop.frame)):
        views[crop.person][crop.camera].append(crop)
    found = [person for person, seen in views.items() if _has_match(seen, same_camera=same_camera)]
    others = [person for person in views if person not in set(found)]
    _require_enough(len(views), len(found), same_camera=same_camera)
    rng = np.random.default_rng(seed)
    asked = set(_drawn(found, max(1, min(round(test_share * len(found)), len(views) - 2)), rng))
    shown = asked | set(_drawn(others, min(round(test_share * len(others)), len(views) - 2 - len(asked)), rng))
    splits: dict[str, list[Crop]] = {"train": [], "query": [], "gallery": []}
    for person, seen in views.items():
        queries = _queries(seen, rng) if person in asked else set()
        for crop in (crop for camera in seen.values() for crop in camera):
            split = "train" if person not in shown else "query" if crop in queries else "gallery"
            splits[split].append(crop)
    return splits


def _has_match(seen: dict[int, list[Crop]], *, same_camera: bool) -> bool:
    return sum(map(len, seen.values())) >= 2 if same_camera else len(seen) >= 2


def _require_enough(persons: int, found: int, *, same_camera: bool) -> None:
    if persons < 3:
        raise DatasetError(
            f"{persons} persons are left: too few\n  want: 3 or more, 2 to train and 1 to test; take smaller or less "
            "visible boxes, more frames or more sequences"
        )
    if not found and same_camera:
        raise DatasetError("no person has two images, so none could be found\n  want: more frames: a smaller --every")
    if not found:
        raise DatasetError(
            "no person is seen by two cameras, so the evaluation of Market-1501, which leaves out the query's own "
            "camera, would have no match\n"
            "  want: --shared-ids if the sequences are views of the same persons, who have the same numbers in all;\n"
            "        or --same-camera: images under the query's own camera count, and the spec has to say "
            "dataset.cameras=none"
        )


def _drawn(persons: Sequence[int], count: int, rng: np.random.Generator) -> list[int]:
    return [persons[place] for place in rng.permutation(len(persons))[: max(0, count)]]


def _queries(seen: dict[int, list[Crop]], rng: np.random.Generator) -> set[Crop]:
    """One image under each camera that has two or more; if none has, one image under the first camera."""
    several = [crops for crops in seen.values() if len(crops) > 1] or [next(iter(seen.values()))]
    return {crops[int(rng.integers(len(crops)))] for crops in several}
