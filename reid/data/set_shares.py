"""The batches of an epoch over several training sets that each have a share of every batch.

Every batch has the same number of persons (or, if batches are shuffled plainly, of images) of each set. The batches of
a set are drawn as if it were the only one; they lie side by side. An epoch ends when every image of every set was seen
at least once: a set that needs fewer steps than another begins again, with batches drawn anew.

Shapes: N images, S steps, B global batch, P persons a batch, K images a person, M sets.
"""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from reid.data.places import places
from reid.data.sampler import EpochSteps, Indices, identity_batches, identity_steps, rank_columns, shuffled_batches
from reid.errors import DatasetError, SpecError

STREAM = 17  # keeps the seeds of sets apart from all others
FIELD = "dataset.train_sets"


class SetShares(NamedTuple):
    """Which set each image is of, and the share of each set."""

    names: tuple[str, ...]
    """(M,)"""
    set_of: Indices
    """(N,): the set of each image, from 0."""
    share: tuple[float, ...]
    """(M,): relative to each other."""


def shared_batches(
    person: Indices, sets: SetShares, *, batch_size: int, num_instances: int | None, seed: int, epoch: int
) -> Indices:
    """person (N,) -> (S, B) image indices; num_instances: K, None for plain shuffling.

    Raises SpecError if a share is too small for one place of a batch, DatasetError if a set has too few persons.
    """
    steps = shared_steps(person, sets, batch_size=batch_size, num_instances=num_instances)
    columns = []
    for number, (rows, size) in enumerate(_parts(person, sets, batch_size, num_instances)):
        batches: list[Indices] = []
        while sum(map(len, batches)) < steps:
            again = [seed, epoch, STREAM, number, len(batches)]
            own_seed = int(np.random.SeedSequence(again).generate_state(1)[0])
            batches.append(_batches(person[rows], size, num_instances)(own_seed))
        columns.append(rows[np.concatenate(batches)[:steps]])
    return np.concatenate(columns, axis=1)


def shared_steps(person: Indices, sets: SetShares, *, batch_size: int, num_instances: int | None) -> int:
    """Exact number of batches of an epoch of `shared_batches`, without making them."""
    return max(
        -(-len(rows) // size)
        if num_instances is None
        else identity_steps(person[rows], batch_size=size, num_instances=num_instances)
        for rows, size in _parts(person, sets, batch_size, num_instances)
    )


class SharedSteps(EpochSteps):
    """The steps of epochs over several training sets."""

    def __init__(
        self, person: Indices, shares: SetShares, *, batch_size: int, num_instances: int | None, seed: int
    ) -> None:
        self._shares = shares
        super().__init__(person, batch_size=batch_size, num_instances=num_instances, seed=seed)

    def __len__(self) -> int:
        steps = shared_steps(self.person, self._shares, batch_size=self.batch_size, num_instances=self.num_instances)
        return steps - self.first

    def plan(self, epoch: int) -> Indices:
        """All batches of an epoch (S, B): a pure function of the epoch."""
        return shared_batches(
            self.person,
            self._shares,
            batch_size=self.batch_size,
            num_instances=self.num_instances,
            seed=self.seed,
            epoch=epoch,
        )


def _batches(person: Indices, size: int, num_instances: int | None) -> Callable[[int], Indices]:
    """seed -> the batches (S, size) of one set."""
    if num_instances is None:
        return lambda seed: shuffled_batches(len(person), batch_size=size, seed=seed, epoch=0)
    return lambda seed: identity_batches(person, batch_size=size, num_instances=num_instances, seed=seed, epoch=0)


def _parts(person: Indices, sets: SetShares, batch_size: int, num_instances: int | None) -> list[tuple[Indices, int]]:
    """The rows of each set, and its number of images in a batch."""
    unit = num_instances or 1
    rank_columns(batch_size=batch_size, num_instances=unit, world_size=1, rank=0)
    count, what = batch_size // unit, "images" if num_instances is None else "persons"
    parts = []
    for number, (name, own) in enumerate(zip(sets.names, places(count, sets.share))):
        rows = np.flatnonzero(sets.set_of == number)
        if not own:
            raise SpecError(
                f"{FIELD}: {name}: share {sets.share[number]:g} of {sum(sets.share):g} is not one of the {count} {what}"
                " of a batch\n  want: a larger share, or a larger dataset.batch_size"
            )
        persons = len(np.unique(person[rows]))
        if not len(rows) or (num_instances and persons < own):
            raise DatasetError(
                f"{FIELD}: {name}: its share of a batch of {count} {what} is {own}\n"
                f"  found: {len(rows)} images of {persons} persons to train on\n"
                "  want:  a smaller share, or a smaller dataset.batch_size"
            )
        parts.append((rows, own * unit))
    return parts
