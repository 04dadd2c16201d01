from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.data.market1501 import PersonImage, Split
from reid.data.selection import held_out
from reid.errors import DatasetError
from reid.scoring.matches import has_match

ROOT = Path("train")


def split(*views: tuple[int, int]) -> Split:
    """One image for each (person, camera), numbered by its place."""
    return Split(ROOT, tuple(PersonImage(f"{number}.jpg", *view) for number, view in enumerate(views)))


def files(part: Split) -> set[str]:
    return {image.file for image in part.images}


views = st.lists(st.tuples(st.integers(1, 9), st.integers(1, 3)), min_size=1, max_size=60)


def has_seen_two(drawn: list[tuple[int, int]], person: int, *, known: bool) -> bool:
    own = [camera for who, camera in drawn if who == person]
    return len(set(own)) > 1 if known else len(own) > 1


@given(views, st.integers(2, 9), st.integers(0, 5))
def test_roles_share_no_person_and_every_query_has_a_match(drawn, wanted, seed):
    train = split(*drawn)
    known = len({camera for _, camera in drawn}) > 1
    eligible = {person for person, _ in drawn if has_seen_two(drawn, person, known=known)}
    if len(eligible) < wanted:
        with pytest.raises(DatasetError):
            held_out(train, persons=wanted, seed=seed)
        return
    roles = held_out(train, persons=wanted, seed=seed)
    persons = set(roles.gallery.person.tolist())
    assert roles.persons == len(persons) == wanted
    assert persons == set(roles.query.person.tolist()) <= eligible
    assert not persons & set(roles.train.person.tolist())
    assert files(roles.train) | files(roles.query) | files(roles.gallery) == files(train)
    assert roles.images + len(roles.train) == len(train)
    assert has_match(roles.query, roles.gallery).all()
    views_of = set(zip(roles.query.person.tolist(), roles.query.camera.tolist()))
    assert len(views_of) == len(roles.query)
    if known:
        assert views_of == {view for view in drawn if view[0] in persons}


@given(views, st.integers(0, 3))
def test_a_query_in_the_gallery_is_a_view_of_its_own_camera_which_the_protocol_drops(drawn, seed):
    try:
        roles = held_out(split(*drawn), persons=2, seed=seed)
    except DatasetError:
        return
    in_gallery = {image.file: image for image in roles.gallery.images}
    for image in roles.query.images:
        assert in_gallery.get(image.file, image) == image


def test_the_draw_is_the_seeds_and_differs_from_seed_to_seed():
    train = split(*[(person, camera) for person in range(1, 41) for camera in (1, 2) for _ in range(3)])
    chosen = [held_out(train, persons=8, seed=seed) for seed in (1, 1, 2)]
    assert chosen[0] == chosen[1]
    assert set(chosen[0].gallery.person.tolist()) != set(chosen[2].gallery.person.tolist())


def test_a_share_is_of_all_persons_rounded_and_two_at_least():
    train = split(*[(person, camera) for person in range(1, 26) for camera in (1, 2)])
    for share, wanted in ((0.1, 2), (0.3, 8), (0.01, 2)):
        assert held_out(train, persons=share, seed=0).persons == wanted


def test_persons_of_one_camera_are_never_held_out():
    train = split((1, 1), (1, 1), (2, 1), (2, 2), (3, 2), (3, 1), (4, 2))
    assert set(held_out(train, persons=2, seed=5).gallery.person.tolist()) == {2, 3}
    with pytest.raises(DatasetError) as caught:
        held_out(train, persons=3, seed=5)
    assert str(caught.value) == (
        "dataset.validation_persons: 3: 3 persons cannot be held out\n"
        "  found: 2 of 4 training persons are seen by at least two cameras\n"
        "  want:  dataset.validation_persons=2 or fewer, or null to choose the best checkpoint on the test images"
    )


def test_with_one_camera_a_person_has_one_query_of_camera_1_and_the_others_are_of_camera_2():
    roles = held_out(split((1, 1), (1, 1), (1, 1), (2, 1), (2, 1), (3, 1)), persons=2, seed=0)
    assert (roles.query.camera.tolist(), roles.gallery.camera.tolist()) == ([1, 1], [2, 2, 2])
    assert roles.query.person.tolist() == [1, 2]
    assert not files(roles.query) & files(roles.gallery)
    assert (roles.persons, roles.images) == (2, 5)
    assert np.array_equal(roles.train.person, [3])
