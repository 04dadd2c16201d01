import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.data.batch_parts import SetShares, rank_columns
from reid.data.places import places
from reid.data.set_shares import SharedSteps, shared_batches, shared_steps
from reid.errors import DatasetError, SpecError


def two_sets(images: list[int], *, first: int, share: tuple[float, float]) -> tuple[np.ndarray, SetShares]:
    """Persons with so many images each; the first ones are of set one, the others of set two."""
    person = np.repeat(np.arange(len(images)), images).astype(np.int64)
    return person, SetShares(("one", "two"), (person >= first).astype(np.int64), share)


def test_places_by_hand():
    # 8 places for 1 : 1 : 1 are 2.67 each: 2 each, and the two that are left go to the first two of equal remainders.
    assert places(8, [1, 1, 1]) == [3, 3, 2]
    # 10 for 0.7 : 0.2 : 0.1 are exact, though 10 x 0.7 / 0.99.. is not in floating point
    assert places(10, [0.7, 0.2, 0.1]) == [7, 2, 1]
    # 4 for 5 : 2 : 1 are 2.5, 1, 0.5: 2, 1, 0, and one more to the first of the equal remainders
    assert places(4, [5, 2, 1]) == [3, 1, 0]


@given(st.integers(1, 64), st.lists(st.floats(0.01, 100), min_size=1, max_size=6))
def test_all_places_are_given_and_each_share_is_missed_by_less_than_one(count, share):
    given_places = places(count, share)
    assert sum(given_places) == count
    for own, part in zip(given_places, share):
        assert abs(own - count * part / sum(share)) < 1 + 1e-6


@settings(deadline=None)
@given(
    st.lists(st.integers(1, 9), min_size=6, max_size=12),
    st.sampled_from([(1.0, 1.0), (3.0, 1.0), (1.0, 3.0)]),
    st.sampled_from([1, 2, 4, None]),
    st.integers(0, 3),
)
def test_every_batch_has_the_shares_and_an_epoch_every_image(images, share, instances, epoch):
    person, sets = two_sets(images, first=3, share=share)
    if instances is None:
        size, wanted = 8, places(8, share)
    else:
        size, wanted = 4 * instances, [instances * own for own in places(4, share)]
    try:
        batches = shared_batches(person, sets, batch_size=size, num_instances=instances, seed=1, epoch=epoch)
    except DatasetError:
        assert wanted[0] > 3 * (instances or 99) or wanted[1] > (len(images) - 3) * (instances or 99)
        return
    assert batches.shape == (shared_steps(person, sets, batch_size=size, num_instances=instances), size)
    for batch in batches:
        assert np.bincount(sets.set_of[batch], minlength=2).tolist() == wanted
    assert set(batches.ravel().tolist()) == set(range(len(person)))
    if instances:
        groups = person[batches].reshape(len(batches), 4, instances)
        assert (groups == groups[:, :, :1]).all()
        assert all(len(set(batch)) == 4 for batch in groups[:, :, 0])


def test_an_epoch_ends_when_the_longest_set_was_seen_and_the_other_begins_again_with_other_batches():
    person, sets = two_sets([2, 2, 2, 2, 20, 20], first=4, share=(1, 1))
    batches = shared_batches(person, sets, batch_size=4, num_instances=2, seed=0, epoch=0)
    assert len(batches) == 20  # two persons of ten groups each, one in a batch; four groups of set one suffice
    seen = [tuple(sorted(batch[:2].tolist())) for batch in batches]
    assert all(len(set(seen[start : start + 4])) == 4 for start in range(0, 20, 4))
    assert len({tuple(seen[start : start + 4]) for start in range(0, 20, 4)}) > 1


def test_the_ranks_share_the_batches_and_a_step_can_be_found_again():
    person, sets = two_sets([4] * 8, first=4, share=(1, 1))
    steps = SharedSteps(person, sets, batch_size=8, num_instances=2, seed=3)
    whole = [step.indices for step in steps]
    assert len(whole) == len(steps)
    steps.begin_at(0, 2)
    assert [step.indices.tolist() for step in steps] == [batch.tolist() for batch in whole[2:]]
    parts = [rank_columns(batch_size=8, num_instances=2, world_size=2, rank=rank) for rank in (0, 1)]
    assert [np.concatenate([batch[part] for part in parts]).tolist() for batch in whole] == [
        batch.tolist() for batch in whole
    ]
    steps.set_epoch(1)
    assert [step.indices.tolist() for step in steps] != [batch.tolist() for batch in whole]


def test_a_share_without_a_place_and_a_set_with_too_few_persons_are_named():
    person, sets = two_sets([2] * 8, first=5, share=(20, 1))
    with pytest.raises(SpecError) as caught:
        shared_steps(person, sets, batch_size=8, num_instances=2)
    assert str(caught.value) == (
        "dataset.train_sets: two: share 1 of 21 is not one of the 4 persons of a batch\n"
        "  want: a larger share, or a larger dataset.batch_size"
    )
    with pytest.raises(DatasetError) as missing:
        shared_steps(person, sets._replace(share=(20, 3)), batch_size=16, num_instances=2)
    assert str(missing.value) == (
        "dataset.train_sets: one: its share of a batch of 8 persons is 7\n"
        "  found: 10 images of 5 persons to train on\n"
        "  want:  a smaller share, or a smaller dataset.batch_size"
    )
