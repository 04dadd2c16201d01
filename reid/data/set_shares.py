"""The batches of an epoch over several training sets that each have a share of every batch.

Every batch has the same number of persons (or, if batches are shuffled plainly, of images) of each set. The batches of
a set are drawn as if it were the only one; they lie side by side. An epoch ends when every image of every set was seen
at least once: a set that needs fewer steps than another begins again, with batches drawn anew.

Shapes: N images, S steps, B global batch, P persons a batch, K images a person, M sets.
"""

from collections.abc import Callable

import numpy as np

from reid.data.batch_parts import Indices, SetShares, parts_of_batch
from reid.data.sampler import EpochSteps, identity_batches, identity_steps, shuffled_batches

STREAM = 17  # keeps the seeds of sets apart from all others


def shared_batches(
    person: Indices, sets: SetShares, *, batch_size: int, num_instances: int | None, seed: int, epoch: int
) -> Indices:
    """person (N,) -> (S, B) image indices; num_instances: K, None for plain shuffling.

    Raises SpecError if a share is too small for one place of a batch, DatasetError if a set has too few persons.
    """
    steps = shared_steps(person, sets, batch_size=batch_size, num_instances=num_instances)
    columns = []
    for number, (rows, size) in enumerate(parts_of_batch(person, sets, batch_size, num_instances)):
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
        for rows, size in parts_of_batch(person, sets, batch_size, num_instances)
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
