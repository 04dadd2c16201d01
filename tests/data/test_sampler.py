import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.data.batch_parts import rank_columns
from reid.data.sampler import EpochSteps, identity_batches, identity_steps, shuffled_batches
from reid.errors import DatasetError, SpecError

sizes = st.lists(st.integers(1, 23), min_size=4, max_size=14)
"""Images of each person."""


def people(counts: list[int]) -> np.ndarray:
    """Labels in a mixed order, as a directory listing never has them but a caller may."""
    person = np.repeat(np.arange(len(counts)) * 7 + 3, counts)
    return np.random.default_rng(len(person)).permutation(person).astype(np.int64)


@settings(deadline=None)
@given(sizes, st.integers(1, 5), st.integers(1, 4), st.integers(0, 3), st.integers(0, 9))
def test_every_batch_holds_p_persons_of_k_images_and_an_epoch_every_image(counts, instances, persons, seed, epoch):
    person = people(counts)
    batches = identity_batches(person, batch_size=persons * instances, num_instances=instances, seed=seed, epoch=epoch)
    groups = person[batches].reshape(len(batches), persons, instances)
    assert (groups == groups[:, :, :1]).all()
    assert all(len(set(batch)) == persons for batch in groups[:, :, 0])
    assert set(batches.ravel()) == set(range(len(person)))
    assert len(batches) == identity_steps(person, batch_size=persons * instances, num_instances=instances)


@settings(deadline=None)
@given(sizes, st.integers(1, 4))
def test_an_epoch_is_as_short_as_its_groups_allow(counts, instances):
    groups = [-(-count // instances) for count in counts]
    steps = identity_steps(people(counts), batch_size=3 * instances, num_instances=instances)
    assert steps == max(-(-sum(groups) // 3), *groups)


@settings(deadline=None)
@given(st.lists(st.integers(4, 23), min_size=4, max_size=14), st.integers(2, 4))
def test_no_image_is_twice_in_a_group_if_its_person_has_enough(counts, instances):
    batches = identity_batches(people(counts), batch_size=2 * instances, num_instances=instances, seed=0, epoch=0)
    assert all(len(set(group)) == instances for group in batches.reshape(-1, instances))


@settings(deadline=None)
@given(sizes, st.sampled_from([1, 2, 4]), st.integers(1, 3))
def test_the_ranks_together_see_the_batches_of_one_process(counts, world_size, instances):
    batch_size = 4 * instances
    batches = identity_batches(people(counts), batch_size=batch_size, num_instances=instances, seed=1, epoch=2)
    parts = [
        batches[:, rank_columns(batch_size=batch_size, num_instances=instances, world_size=world_size, rank=rank)]
        for rank in range(world_size)
    ]
    assert {part.shape for part in parts} == {(len(batches), batch_size // world_size)}
    assert (np.concatenate(parts, axis=1) == batches).all()
    for part in parts:  # K images of a person lie on one rank
        assert part.shape[1] % instances == 0


def test_the_same_epoch_is_the_same_and_the_next_is_another():
    person = np.repeat(np.arange(20), 6)
    first, again, other_epoch, other_seed = (
        identity_batches(person, batch_size=16, num_instances=4, seed=seed, epoch=epoch)
        for seed, epoch in ((5, 3), (5, 3), (5, 4), (6, 3))
    )
    assert (first == again).all()
    assert (first != other_epoch).any()
    assert (first != other_seed).any()


def test_persons_meet_each_other_about_equally_often():
    # 12 persons of one group each, 4 a batch: a person shares its batch with 3 of 11 others, so a pair meets with 3/11.
    person = np.repeat(np.arange(12), 2)
    together = np.zeros((12, 12))
    for epoch in range(600):
        batches = identity_batches(person, batch_size=8, num_instances=2, seed=0, epoch=epoch)
        for chosen in person[batches].reshape(-1, 4, 2)[:, :, 0]:
            together[np.ix_(chosen, chosen)] += 1
    share = together[np.triu_indices(12, 1)] / 600
    # standard deviation sqrt(3/11 * 8/11 / 600) = 0.018; 66 pairs stay within 4.5 of them
    assert np.abs(share - 3 / 11).max() < 0.082


def test_a_person_with_few_images_repeats_them_evenly():
    batches = identity_batches(np.array([0, 0, 1, 1, 1, 1]), batch_size=8, num_instances=4, seed=0, epoch=0)
    assert sorted(batches[0]) == [0, 0, 1, 1, 2, 3, 4, 5]


def test_plain_shuffling_shows_every_image_once_and_fills_the_last_batch():
    batches = shuffled_batches(10, batch_size=4, seed=0, epoch=0)
    assert batches.shape == (3, 4)
    assert sorted(batches.ravel()[:10]) == list(range(10))
    assert list(batches.ravel()[10:]) == list(batches.ravel()[:2])
    assert (batches != shuffled_batches(10, batch_size=4, seed=0, epoch=1)).any()


@pytest.mark.parametrize("instances", [4, None])
def test_the_loader_knows_the_exact_number_of_steps(instances):
    steps = EpochSteps(people([3, 9, 1, 4, 5]), batch_size=8, num_instances=instances, seed=0)
    steps.set_epoch(3)
    listed = list(steps)
    assert len(listed) == len(steps)
    assert [(step.epoch, step.step) for step in listed] == [(3, number) for number in range(len(listed))]


def test_a_batch_that_wants_more_persons_than_there_are_is_refused():
    with pytest.raises(DatasetError) as error:
        identity_steps(np.array([0, 0, 1, 2]), batch_size=16, num_instances=4)
    assert str(error.value) == (
        "dataset.batch_size: a batch of 16 images, 4 of a person, needs 4 persons\n"
        "  found: 3 persons in the training split\n"
        "  want: dataset.batch_size=12 or less"
    )


def test_a_batch_that_does_not_divide_among_the_ranks_is_refused_with_the_nearest_sizes():
    with pytest.raises(SpecError) as error:
        rank_columns(batch_size=60, num_instances=4, world_size=4, rank=0)
    assert str(error.value) == (
        "dataset.batch_size: 60 does not divide among 4 GPUs x 4 images of a person\n"
        "  want: a multiple of 16; the nearest: 48 or 64"
    )
