"""The images that a training learns from, and those on which its best checkpoint is chosen.

If the spec holds persons out (`dataset.validation_persons`), both are rows of one store, for the training images are
decoded together. Else the best checkpoint is chosen on the query and gallery images.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.choice import ON_THE_TEST_IMAGES
from reid.data.market1501 import Manifest, Split
from reid.data.picked import DecodedImages, PickedImages
from reid.data.selection import FIELD, Roles, held_out
from reid.data.set_shares import SetShares
from reid.errors import DatasetError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ImagesByRole:
    """The decoded images of a training, each with the split that names them."""

    train: Split
    train_pixels: DecodedImages
    query: Split
    query_pixels: DecodedImages
    gallery: Split
    """The gallery on which the best checkpoint is chosen, junk included."""
    gallery_pixels: DecodedImages
    all_persons: int
    """The number of persons in the training images, the held-out ones included."""
    skipped: int
    """The number of training images that cannot be read and are left out."""


def choose_roles(train: Split, *, persons: int | float, seed: int, persons_in_a_batch: int) -> Roles:
    """What each training image is used for, by its name alone; see reid.data.selection.held_out.

    persons_in_a_batch: P, 1 if batches are shuffled plainly. Raises DatasetError if too few persons are left to train
    on, or for a batch.
    """
    roles = held_out(train, persons=persons, seed=seed)
    rest, wanted = len(np.unique(roles.train.person)), max(2, persons_in_a_batch)
    if rest < wanted:
        what = f"a batch has {persons_in_a_batch} persons (dataset.batch_size / dataset.num_instances)"
        most = roles.persons + rest - wanted
        raise DatasetError(
            f"{FIELD}: {persons}: {roles.persons} persons held out leave {rest} to train on\n"
            f"  found: {what if persons_in_a_batch > 1 else 'a classifier needs two persons'}\n"
            f"  want:  {f'{FIELD}={most} or fewer' if most > 1 else f'{FIELD}=null'}"
            f"{', or a smaller dataset.batch_size' if persons_in_a_batch > 2 else ''}"
        )
    return roles


def chosen_on(roles: Roles | None) -> str:
    """What the best checkpoint is chosen on, in words."""
    if roles is None:
        return ON_THE_TEST_IMAGES
    return f"{roles.persons} held-out training persons, {roles.images} images"


def images_by_role(
    manifest: Manifest,
    roles: Roles | None,
    *,
    decoded: Callable[[Split], NDArray[np.uint8]],
    readable: Callable[[Split], Split],
) -> ImagesByRole:
    """All images of a training; roles: None if no person is held out.

    `decoded` opens the store of a split, `readable` gives a split without damaged images. Those of held-out persons are
    left out as those of the others are.
    """
    listed = manifest.train.of_persons()
    everyone = readable(listed)
    pixels = decoded(everyone)
    persons, skipped = len(np.unique(everyone.person)), len(listed) - len(everyone)
    if roles is None:
        pairs: list[WithPixels] = [
            (everyone, pixels),
            *((split, decoded(split)) for split in (manifest.query, manifest.gallery)),
        ]
        return _by_role(*pairs, persons=persons, skipped=skipped)
    logger.info("the best checkpoint is chosen on %s", chosen_on(roles))
    row_of = {image.file: row for row, image in enumerate(everyone.images)}
    picked = [_picked(split, pixels, row_of) for split in roles]
    return _by_role(*picked, persons=persons, skipped=skipped)


def shares_of(manifest: Manifest, train: Split) -> SetShares | None:
    """The shares of the training sets and the set of each image of `train`; None if the sets have no shares."""
    sets = manifest.train_sets
    if not any(part.share for part in sets):
        return None
    set_of = {
        image.file: number
        for number, part in enumerate(sets)
        for image in manifest.train.images[part.first : part.first + part.count]
    }
    return SetShares(
        tuple(part.name for part in sets),
        np.array([set_of[image.file] for image in train.images], np.int64),
        tuple(float(part.share or 0.0) for part in sets),
    )


WithPixels = tuple[Split, DecodedImages]


def _by_role(train: WithPixels, query: WithPixels, gallery: WithPixels, *, persons: int, skipped: int) -> ImagesByRole:
    return ImagesByRole(*train, *query, *gallery, all_persons=persons, skipped=skipped)


def _picked(split: Split, pixels: DecodedImages, row_of: dict[str, int]) -> WithPixels:
    """The images of a split that are among the decoded ones, and their pixels."""
    images = tuple(image for image in split.images if image.file in row_of)
    rows = np.array([row_of[image.file] for image in images], np.int64)
    return Split(split.root, images), PickedImages(pixels, rows)
