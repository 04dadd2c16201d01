"""Epochs as TAO's sampler makes them."""

from collections import Counter

import numpy as np
import pytest

from reid.contract import Contract
from reid.data.module import TrainingData
from reid.data.peer_epochs import PeerSteps, peer_batches
from reid.data.sampler import identity_steps
from reid.errors import DatasetError


def people(counts: list[int]) -> np.ndarray:
    return np.repeat(np.arange(len(counts)), counts)


FEW_LARGE = [80] + [4] * 30
"""One person of 80 images, 30 of 4."""


def lengths(counts: list[int], *, batch_size: int, epochs: int) -> list[int]:
    given = {"batch_size": batch_size, "num_instances": 4, "seed": 0}
    return [len(peer_batches(people(counts), epoch=epoch, **given)) for epoch in range(epochs)]


@pytest.mark.parametrize(
    ("counts", "batch_size", "wanted"),
    [
        # read while TAO's own sampler ran under Lightning for 20 epochs
        ([16] * 40, 64, {9}),  # its len says 10, but in the end fewer than 16 persons have images left
        (FEW_LARGE, 64, {1, 2}),
        ([23, 2, 9] * 100, 64, {43}),  # (5 + 0 + 2) x 100 whole groups / 16; it draws 49, Lightning ends it
        ([3] * 20, 16, {1}),  # five batches are drawn, but none is a whole group: TAO's epoch is empty
    ],
)
def test_an_epoch_has_as_many_batches_as_taos(counts: list[int], batch_size: int, wanted: set[int]) -> None:
    assert set(lengths(counts, batch_size=batch_size, epochs=12)) == wanted


def test_an_epoch_of_every_image_is_longer_if_the_persons_are_unequal() -> None:
    # 20 groups of the large person need 20 batches
    assert identity_steps(people(FEW_LARGE), batch_size=64, num_instances=4) == 20
    assert np.mean(lengths(FEW_LARGE, batch_size=64, epochs=200)) == pytest.approx(1.52, abs=0.1)  # TAO's: 1.52


def test_a_batch_holds_different_persons_and_no_image_comes_twice() -> None:
    person = people([9, 4, 30, 2, 8, 8, 12, 5])
    batches = peer_batches(person, batch_size=16, num_instances=4, seed=1, epoch=2)
    for batch in batches:
        of_groups = person[batch].reshape(4, 4)
        assert (of_groups == of_groups[:, :1]).all()
        assert len(set(of_groups[:, 0].tolist())) == 4
    seen = Counter(batches.ravel().tolist())
    assert {image for image, times in seen.items() if times > 1} <= set(np.flatnonzero(person == 3).tolist())


def test_every_image_has_its_turn_over_the_epochs_and_all_persons_are_equally_likely() -> None:
    person = people([9, 4, 30, 8, 8, 12, 5])
    epochs = [peer_batches(person, batch_size=8, num_instances=4, seed=0, epoch=epoch) for epoch in range(60)]
    assert set(np.concatenate(epochs).ravel().tolist()) == set(range(len(person)))
    first = Counter(person[batches[0][::4]].tobytes() for batches in epochs)
    assert len(first) > 20  # 7 x 6 ordered pairs
    again = peer_batches(person, batch_size=8, num_instances=4, seed=0, epoch=3)
    np.testing.assert_array_equal(again, epochs[3])


def test_too_few_persons_are_refused_as_ever() -> None:
    with pytest.raises(DatasetError, match="needs 4 persons"):
        peer_batches(people([9, 9]), batch_size=16, num_instances=4, seed=0, epoch=0)


def test_the_loader_counts_the_steps_of_each_epoch_and_resumes_within_one() -> None:
    """The ranks take columns of the same batches, so their number is that of one process."""
    person = people(FEW_LARGE)
    pixels = np.zeros((len(person), 4, 4, 3), np.uint8)
    contract = Contract(height=4, width=4, channels=3, mean=(0.5,) * 3, std=(0.5,) * 3, embedding=1)
    data = TrainingData(
        pixels, person, contract=contract, batch_size=64, num_instances=4, num_workers=0, seed=0, padding=0,
        flip_probability=0.0, erasing_probability=0.0, epoch_length="peers",
    )  # fmt: skip
    steps = data.steps()
    assert isinstance(steps, PeerSteps)
    counts = [data.steps_in(epoch) for epoch in range(12)]
    assert counts == lengths(FEW_LARGE, batch_size=64, epochs=12)
    for epoch, count in enumerate(counts):
        steps.set_epoch(epoch)
        assert len(steps) == len(list(steps)) == count
    long = counts.index(2)
    steps.begin_at(long, 1)
    (rest,) = steps
    assert (rest.epoch, rest.step, len(steps)) == (long, 1, 1)
    assert len(data.train_dataloader()) == counts[0]
