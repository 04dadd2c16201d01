"""How the images of a batch divide among ranks, persons and training sets, and whether the persons suffice for it.

It needs no torch, so that the validate stage asks it before a GPU is booked.

Shapes: N images, B global batch, P persons a batch, K images a person, M sets.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.data.places import places
from reid.errors import DatasetError, SpecError

Indices = NDArray[np.int64]

FIELD = "dataset.train_sets"


class SetShares(NamedTuple):
    """Which set each image is of, and the share of each set."""

    names: tuple[str, ...]
    """(M,)"""
    set_of: Indices
    """(N,): the set of each image, from 0."""
    share: tuple[float, ...]
    """(M,): relative to each other."""


def require_persons(person: Indices, sets: SetShares | None, *, batch_size: int, num_instances: int | None) -> None:
    """person (N,): raises what the first batch of a training would raise; num_instances: K, None for plain shuffling.

    Those are SpecError if the batch does not divide, DatasetError if there are too few persons for it. sets: None if
    there is one training set, or if the sets have no shares.
    """
    if sets:
        parts_of_batch(person, sets, batch_size, num_instances)
    elif num_instances:
        persons_per_batch(batch_size, num_instances, len(np.unique(person)))


def rank_columns(*, batch_size: int, num_instances: int, world_size: int, rank: int) -> slice:
    """The columns of the (S, B) batches that belong to a rank: consecutive, whole persons, equally many on each rank.

    Raises SpecError, with the nearest possible sizes, if the persons of a batch do not divide among the ranks.
    """
    unit = world_size * num_instances
    if batch_size % unit:
        below = batch_size // unit * unit
        nearest = f"{below} or {below + unit}" if below else f"{unit}"
        raise SpecError(
            f"dataset.batch_size: {batch_size} does not divide among {world_size} GPUs"
            f" x {num_instances} images of a person\n"
            f"  want: a multiple of {unit}; the nearest: {nearest}"
        )
    own = batch_size // world_size
    return slice(rank * own, (rank + 1) * own)


def persons_per_batch(batch_size: int, num_instances: int, persons: int) -> int:
    """P; raises SpecError if K does not divide B, DatasetError if there are fewer persons."""
    rank_columns(batch_size=batch_size, num_instances=num_instances, world_size=1, rank=0)
    wanted = batch_size // num_instances
    if persons < wanted:
        raise DatasetError(
            f"dataset.batch_size: a batch of {batch_size} images, {num_instances} of a person, needs {wanted} persons\n"
            f"  found: {persons} persons in the training split\n"
            f"  want: dataset.batch_size={persons * num_instances} or less"
        )
    return wanted


def parts_of_batch(
    person: Indices, sets: SetShares, batch_size: int, num_instances: int | None
) -> list[tuple[Indices, int]]:
    """The rows of each set, and its number of images in a batch.

    Raises SpecError if a share is too small for one place of a batch, DatasetError if a set has too few persons.
    """
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
