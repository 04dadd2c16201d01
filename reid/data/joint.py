"""Several training sets as one: one list of images, persons and cameras numbered so that no two sets share one."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.data.market1501 import DISTRACTOR, PersonImage, Split, TrainSet


@dataclass(frozen=True)
class Part:
    """A training set before it is joined to others."""

    name: str
    split: Split
    share: float | None = None
    """Its share of a batch, as TrainSet has it."""


def join(parts: Sequence[Part]) -> tuple[Split, tuple[TrainSet, ...]]:
    """The images of all sets, one set after the other, and which rows are whose.

    The root is the folder that all sets lie in. The persons of the first set become 1, 2, …, in the order of their
    numbers, those of the second set follow, and so do cameras; junk (-1) and distractors (0) stay what they are.
    """
    root = Path(os.path.commonpath([part.split.root.absolute() for part in parts]))
    images: list[PersonImage] = []
    sets: list[TrainSet] = []
    persons = cameras = 0
    for part in parts:
        folder = part.split.root.absolute().relative_to(root)
        person = _numbered((image.person for image in part.split.images if image.person > DISTRACTOR), after=persons)
        camera = _numbered((image.camera for image in part.split.images), after=cameras)
        sets.append(TrainSet(part.name, len(images), len(part.split), part.share))
        images += [
            PersonImage(str(folder / image.file), person.get(image.person, image.person), camera[image.camera])
            for image in part.split.images
        ]
        persons, cameras = persons + len(person), cameras + len(camera)
    return Split(root, tuple(images)), tuple(sets)


def _numbered(numbers: Iterable[int], *, after: int) -> dict[int, int]:
    """Number -> after + 1 for the lowest, after + 2 for the next one, …"""
    return {number: place for place, number in enumerate(sorted(set(numbers)), start=after + 1)}
