"""Suspected labels: planted faults are found, whatever the cameras do; and nothing is said where nothing can be."""

from dataclasses import dataclass

import numpy as np
import pytest
from numpy.typing import NDArray

from reid.retrieval.distance import l2_normalize
from reid.retrieval.knn import nearest_neighbours
from reid.retrieval.suspects import Suspects, find_suspects, without_cameras

PERSONS, CAMERAS, WIDTH = 60, 4, 64


@dataclass
class World:
    """Vectors of persons under cameras, each with a background of its own: three images under 2 to 4 cameras."""

    unit: NDArray[np.float32]
    person: NDArray[np.int64]
    camera: NDArray[np.int64]

    def suspects(self) -> Suspects:
        unit = without_cameras(self.unit, person=self.person, camera=self.camera) if len(self.unit) > 9 else self.unit
        nearest = nearest_neighbours(unit, count=51).nearest
        return find_suspects(unit, person=self.person, camera=self.camera, nearest=nearest)


def world(seed: int, *, background: float = 0.5) -> World:
    rng = np.random.default_rng(seed)
    looks, walls = rng.normal(size=(PERSONS, WIDTH)), rng.normal(size=(CAMERAS, WIDTH)) * background
    vectors, persons, cameras = [], [], []
    for person, look in enumerate(looks, 1):
        for camera in rng.choice(CAMERAS, rng.integers(2, CAMERAS + 1), replace=False):
            visit = look + walls[camera] + 0.4 * rng.normal(size=WIDTH)
            vectors += [visit + 0.5 * rng.normal(size=WIDTH) for _ in range(3)]
            persons += [person] * 3
            cameras += [int(camera) + 1] * 3
    return World(l2_normalize(np.array(vectors)), np.array(persons), np.array(cameras))


@pytest.mark.parametrize("seed", [0, 1])
def test_nothing_is_suspected_if_all_labels_are_right(seed: int) -> None:
    found = world(seed).suspects()
    assert (found.wrong_labels, found.same_persons, found.two_persons) == ([], [], [])
    assert found.usual_margin < -0.2


def test_a_strong_background_does_not_make_strangers_of_one_camera_one_person() -> None:
    found = world(2, background=3.0).suspects()
    assert (found.same_persons, found.two_persons) == ([], [])
    assert found.wrong_labels == []


def test_planted_labels_are_found_with_the_person_that_they_belong_to() -> None:
    one = world(3)
    rng = np.random.default_rng(0)
    rows = rng.choice(len(one.person), len(one.person) // 20, replace=False)
    truth = {int(row): int(one.person[row]) for row in rows}
    one.person[rows] = (one.person[rows] + rng.integers(1, PERSONS, len(rows)) - 1) % PERSONS + 1
    found = one.suspects().wrong_labels
    assert {label.row: label.other for label in found[: len(truth)]} == truth
    assert [label.margin for label in found] == sorted((label.margin for label in found), reverse=True)
    first = found[0]
    assert (one.person[first.nearest_own], one.person[first.nearest_other]) == (first.person, first.other)
    assert first.nearest_own != first.row


def test_a_person_under_two_numbers_and_two_under_one_are_found() -> None:
    one = world(4)
    halves = np.flatnonzero(one.person == 5)
    one.person[halves[::2]] = 105
    merged = np.flatnonzero(one.person == 8)
    one.person[merged] = 7
    found = one.suspects()
    (same,) = found.same_persons
    assert (same.person, same.other) == (5, 105)
    assert (one.person[same.row], one.person[same.nearest_other]) == (5, 105)
    assert [two.person for two in found.two_persons] == [7]
    (two,) = found.two_persons
    assert set(merged.tolist()) in (set(two.first), set(two.second))
    assert not {label.row for label in found.wrong_labels} & set(halves.tolist())


def test_images_that_share_no_view_with_their_person_or_have_no_other_image_are_not_judged() -> None:
    # person 1 under cameras 1 and 2; persons 2 and 3 have one image each, just like one of person 1
    unit = np.eye(4, dtype=np.float32)[[0, 1, 0, 1]]
    found = World(unit, np.array([1, 1, 2, 3]), np.array([1, 2, 1, 2])).suspects()
    assert (found.wrong_labels, found.same_persons, found.two_persons) == ([], [], [])


def test_margins_by_hand() -> None:
    # One camera. Row 2 is labelled person 1 and lies with person 2: its cosine to both of person 1 is 0, and
    # 1 to both of person 2: the margin is 1.
    unit = np.eye(2, dtype=np.float32)[[0, 0, 1, 1, 1]]
    found = World(unit, np.array([1, 1, 1, 2, 2]), np.ones(5, np.int64)).suspects()
    assert found.wrong_labels[0] == (1.0, 2, 1, 2, 0, 3)
    assert len(found.wrong_labels) == 1
