"""The plan of a drawn data set: which camera sees which person how often, and the name of every image."""

from dataclasses import dataclass
from enum import IntEnum

import numpy as np

TRAIN, GALLERY, QUERY = "bounding_box_train", "bounding_box_test", "query"

QUERY_CHANCE = 0.4
"""Probability of a further query image of a test person, under each camera after the first."""


class Branch(IntEnum):
    """Branches of the seed: each purpose has random numbers of its own."""

    CAMERA = 0
    PERSON = 1
    DISTRACTOR = 2
    JUNK = 3


@dataclass(frozen=True, slots=True)
class Parameters:
    """All parameters that decide a drawn data set; its stamp file holds them."""

    train_persons: int
    test_persons: int
    cameras: int
    images_per_camera: int
    distractors: int
    junk: int
    width: int
    height: int
    seed: int


@dataclass(frozen=True, slots=True)
class Shot:
    """One image to draw: its file, relative to the root, and the camera (from 1) that takes it."""

    file: str
    camera: int


@dataclass(frozen=True, slots=True)
class Subject:
    """A person and all images of that person; a distractor or a junk image is a subject with one image."""

    branch: Branch
    index: int
    shots: tuple[Shot, ...]


def plan(parameters: Parameters) -> list[Subject]:
    """All images of the data set, by subject; nothing is drawn yet."""
    persons = range(1, parameters.train_persons + parameters.test_persons + 1)
    subjects = [_plan_person(parameters, person) for person in persons]
    for branch, name, count in (
        (Branch.DISTRACTOR, "0000", parameters.distractors),
        (Branch.JUNK, "-1", parameters.junk),
    ):
        for index in range(count):
            rng = random_numbers(parameters.seed, branch, index, 0)
            camera, frame = int(rng.integers(parameters.cameras)) + 1, 100 * index + int(rng.integers(100))
            file = f"{GALLERY}/{name}_c{camera}s{1 + index % 6}_{frame:06d}_{int(rng.integers(1, 9)):02d}.jpg"
            subjects.append(Subject(branch, index, (Shot(file, camera),)))
    return subjects


def _plan_person(parameters: Parameters, person: int) -> Subject:
    rng = random_numbers(parameters.seed, Branch.PERSON, person, 0)
    fewest = max(2, parameters.cameras // 2)
    seen_by = int(rng.integers(fewest, max(fewest, parameters.cameras - 1) + 1))
    split = TRAIN if person <= parameters.train_persons else GALLERY
    shots = []
    for turn, camera in enumerate(rng.permutation(parameters.cameras)[:seen_by] + 1):
        frame = int(rng.integers(120_000))
        prefix = f"{person:04d}_c{camera}s{1 + frame // 20_000}"
        spread = 1 if parameters.images_per_camera > 1 else 0
        images = int(rng.integers(parameters.images_per_camera - spread, parameters.images_per_camera + spread + 1))
        for _ in range(images):
            shots.append(Shot(f"{split}/{prefix}_{frame:06d}_{int(rng.integers(1, 6)):02d}.jpg", int(camera)))
            frame += int(rng.integers(20, 80))
        if split == GALLERY and (turn == 0 or rng.random() < QUERY_CHANCE):
            shots.append(Shot(f"{QUERY}/{prefix}_{frame:06d}_00.jpg", int(camera)))
    return Subject(Branch.PERSON, person, tuple(shots))


def random_numbers(seed: int, *branch: int) -> np.random.Generator:
    """The random generator of one branch of the seed, independent of all other branches."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=branch))
