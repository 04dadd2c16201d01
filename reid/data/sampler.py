"""Which images make up each batch of an epoch: pure functions of the labels, the seed and the epoch.

An epoch's batches are one array (S, B): S steps, B = P x K rows, P persons of K images each. A rank takes its columns
of it, so the ranks together see exactly the batches of one process, and any step of any epoch can be found again
without having run the ones before.

Shapes: N images, S steps, B global batch, P persons a batch, K images a person, W ranks.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np
from torch.utils.data import Sampler

from reid.data.batch_parts import Indices, persons_per_batch

STREAM = 1  # keeps these draws apart from the augmentation's, which share the seed


def identity_batches(person: Indices, *, batch_size: int, num_instances: int, seed: int, epoch: int) -> Indices:
    """person (N,) int64 -> (S, B) image indices: every batch holds P different persons, K images each, side by side.

    Every image is seen at least once an epoch. Persons are cut into groups of K images; a short group is filled with
    other images of the same person. S is as small as that allows: groups / P, or the groups of the largest person.
    Each batch takes a person with the probability (groups left) / (batches left), by systematic sampling: then no
    group is left over at the end, whatever the sizes. (The usual sampler for Hermans et al. 2017 drops the images that
    do not fill a group, and the last persons of an epoch.)

    Raises SpecError if K does not divide B, DatasetError if there are fewer than P persons.
    """
    rng = np.random.default_rng([seed, epoch, STREAM])
    names, owner = np.unique(person, return_inverse=True)
    persons = persons_per_batch(batch_size, num_instances, len(names))
    images = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
    needed = -(-np.bincount(owner) // num_instances)  # groups of K that a person's images fill, rounded up
    steps = _steps(needed, persons)
    spare = steps * persons - int(needed.sum())
    needed += rng.multivariate_hypergeometric(steps - needed, spare, method="marginals")  # fill the last batches

    groups = [_groups(own, int(count), num_instances, rng) for own, count in zip(images, needed)]
    batches = np.empty((steps, persons, num_instances), np.int64)
    left = needed.copy()
    for step in range(steps):
        for slot, chosen in enumerate(_systematic_sample(left, steps - step, rng)):
            left[chosen] -= 1
            batches[step, slot] = groups[chosen][left[chosen]]
    return batches.reshape(steps, batch_size)


def identity_steps(person: Indices, *, batch_size: int, num_instances: int) -> int:
    """Exact number of batches of an epoch of `identity_batches`, without making them."""
    counts = np.unique(person, return_counts=True)[1]
    return _steps(-(-counts // num_instances), persons_per_batch(batch_size, num_instances, len(counts)))


def shuffled_batches(count: int, *, batch_size: int, seed: int, epoch: int) -> Indices:
    """(S, B) image indices, shuffled: every image once, and the last batch filled up with images of the first."""
    rng = np.random.default_rng([seed, epoch, STREAM])
    steps = -(-count // batch_size)
    return np.resize(rng.permutation(count), (steps, batch_size)).astype(np.int64)


class Step(NamedTuple):
    """One batch to be read: its epoch and step (from 0), and the images of the global batch (B,)."""

    epoch: int
    step: int
    indices: Indices


class EpochSteps(Sampler[Step]):
    """The steps of one epoch after another, for torch's DataLoader; Lightning calls `set_epoch`."""

    def __init__(self, person: Indices, *, batch_size: int, num_instances: int | None, seed: int) -> None:
        """num_instances: K, or None for plain shuffling."""
        self.person, self.batch_size, self.num_instances, self.seed = person, batch_size, num_instances, seed
        self.epoch = self.first = 0
        self.batches_of: Callable[[int], Indices] = self.plan
        """Epoch (from 0) -> the result of `plan` for it, perhaps planned ahead."""

    def begin_at(self, epoch: int, step: int) -> None:
        """The next iteration gives the batches of this epoch from this step on (both from 0)."""
        self.epoch, self.first = epoch, step

    def set_epoch(self, epoch: int) -> None:
        """The next iteration gives the batches of this epoch (from 0), all unless `begin_at` has named the same one."""
        if epoch != self.epoch:
            self.begin_at(epoch, 0)

    def __len__(self) -> int:
        if self.num_instances is None:
            return math.ceil(len(self.person) / self.batch_size) - self.first
        return identity_steps(self.person, batch_size=self.batch_size, num_instances=self.num_instances) - self.first

    def plan(self, epoch: int) -> Indices:
        """All batches of an epoch (S, B): a pure function of the epoch."""
        size, seed = self.batch_size, self.seed
        if self.num_instances is None:
            return shuffled_batches(len(self.person), batch_size=size, seed=seed, epoch=epoch)
        return identity_batches(self.person, batch_size=size, num_instances=self.num_instances, seed=seed, epoch=epoch)

    def _batches(self) -> Indices:
        return self.batches_of(self.epoch)

    def __iter__(self) -> Iterator[Step]:
        epoch, batches = self.epoch, self._batches()
        for step in range(self.first, len(batches)):
            yield Step(epoch, step, batches[step])


def _steps(groups: Indices, persons_per_batch: int) -> int:
    return max(-(-int(groups.sum()) // persons_per_batch), int(groups.max()))


def _groups(images: Indices, count: int, size: int, rng: np.random.Generator) -> Indices:
    """(count, size) images of one person: all, then some again; a group repeats none if there are enough images."""
    shuffled = rng.permutation(images)
    whole = len(images) // size
    groups = np.empty((count, size), np.int64)
    groups[:whole] = shuffled[: whole * size].reshape(whole, size)
    for short in range(whole, count):
        own = shuffled[short * size : (short + 1) * size]
        others = rng.permutation(np.delete(images, np.searchsorted(images, own)))  # images are ascending
        groups[short] = np.resize(np.concatenate([own, others]), size)
    return groups


def _systematic_sample(left: Indices, draws: int, rng: np.random.Generator) -> Indices:
    """Distinct items, each with the probability left / draws; left (n,) sums to a multiple of draws, none above draws.

    The items are laid on a line in random order, each as long as its count; every `draws`-th point from a random start
    picks one.
    """
    order = rng.permutation(len(left))
    ends = np.cumsum(left[order])
    points = np.arange(rng.integers(draws), ends[-1], draws)
    return order[np.searchsorted(ends, points, side="right")]
