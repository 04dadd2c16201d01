"""Epochs as TAO's RandomIdentitySampler makes them, also TransReID's and the strong baseline's: no image comes twice.

Each person's images are shuffled and cut into groups of K; the rest is left out, and a person of fewer images than K
has one group, drawn with repetition. Each batch takes P persons at random, all equally likely, among those with groups
left. The epoch ends if fewer than P persons have any, or, as Lightning ends TAO's, after as many batches as the whole
groups fill. So it is short if the persons have unequal numbers of images, and the images of large persons are seen in
turn over the epochs.

Shapes: N images, S steps, B global batch, P persons a batch, K images a person.
"""

import numpy as np

from reid.data.batch_parts import Indices, persons_per_batch
from reid.data.sampler import STREAM, EpochSteps


def peer_batches(person: Indices, *, batch_size: int, num_instances: int, seed: int, epoch: int) -> Indices:
    """person (N,) int64 -> (S, B) image indices: every batch holds P different persons, K images each, side by side.

    S differs from epoch to epoch if fewer than P persons are left before the whole groups are through; it is at least
    1, while TAO's epoch is empty if no person has K images. Raises as identity_batches does.
    """
    rng = np.random.default_rng([seed, epoch, STREAM])
    names, owner, counts = np.unique(person, return_inverse=True, return_counts=True)
    persons = persons_per_batch(batch_size, num_instances, len(names))
    images = np.split(np.argsort(owner, kind="stable"), np.cumsum(counts)[:-1])
    whole = counts // num_instances
    groups = [
        rng.permutation(own)[: count * num_instances].reshape(count, num_instances)
        if count
        else rng.choice(own, (1, num_instances))
        for own, count in zip(images, whole.tolist())
    ]
    left, most = np.maximum(whole, 1), max(int(whole.sum()) // persons, 1)
    batches: list[Indices] = []
    while len(batches) < most and len(having := np.flatnonzero(left)) >= persons:
        chosen = rng.choice(having, persons, replace=False)
        left[chosen] -= 1
        batches.append(np.concatenate([groups[one][left[one]] for one in chosen]))
    return np.stack(batches).astype(np.int64)


class PeerSteps(EpochSteps):
    """The steps of such epochs."""

    _kept: tuple[int, Indices] | None = None
    """The last epoch that was planned, and its batches."""

    def __len__(self) -> int:
        return len(self._batches()) - self.first

    def _batches(self) -> Indices:
        if self._kept is None or self._kept[0] != self.epoch:
            self._kept = (self.epoch, self.batches_of(self.epoch))
        return self._kept[1]

    def plan(self, epoch: int) -> Indices:
        """All batches of an epoch (S, B): a pure function of the epoch."""
        assert self.num_instances is not None
        return peer_batches(
            self.person,
            batch_size=self.batch_size,
            num_instances=self.num_instances,
            seed=self.seed,
            epoch=epoch,
        )
