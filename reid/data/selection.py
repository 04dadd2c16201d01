"""Holds training persons out, so that the best checkpoint is chosen on images that are not reported later.

The images of the held-out persons are ranked as a test set's are: the queries against the gallery, without the images
of the query's person from the query's own camera.
"""

from typing import NamedTuple

import numpy as np

from reid.data.market1501 import PersonImage, Split
from reid.errors import DatasetError

FIELD = "dataset.validation_persons"
STREAM = 16  # keeps these draws apart from all others, which share the seed
FEWEST = 2
"""The fewest persons to hold out: among images of one person every match is right."""


class Roles(NamedTuple):
    """The training images by what they are used for."""

    train: Split
    """The images to learn from, in the order of the whole split."""
    query: Split
    gallery: Split

    @property
    def persons(self) -> int:
        """The number of persons that are held out."""
        return len(np.unique(self.gallery.person))

    @property
    def images(self) -> int:
        """The number of images that are held out; one that is both query and in the gallery counts once."""
        return len({image.file for split in (self.query, self.gallery) for image in split.images})


def held_out(train: Split, *, persons: int | float, seed: int, left: int = 0) -> Roles:
    """Some persons of a training split (persons above 0) as query and gallery, and the images of all others.

    persons: how many, or which share of all persons, rounded, FEWEST at least. They are drawn by the seed among those
    that are seen by at least two cameras. One image of a person and camera, drawn too, is a query; the gallery holds
    all images of these persons, as the protocol leaves out the query itself with its camera. If the split has one
    camera only (cameras are unknown), persons of at least two images are drawn, the one query of a person counts as
    camera 1 and the others as camera 2.

    Raises DatasetError if there are too few such persons; `left` is the number of others that a training needs, so that
    the error does not advise more persons than can be held out.
    """
    person, camera = train.person, train.camera
    everyone = np.unique(person)
    wanted = persons if isinstance(persons, int) else max(FEWEST, round(persons * len(everyone)))
    known = len(np.unique(camera)) > 1
    eligible = _eligible(train, known=known)
    if len(eligible) < wanted:
        needs = "seen by at least two cameras" if known else "of at least two images"
        most = min(len(eligible), len(everyone) - left)
        raise DatasetError(
            f"{FIELD}: {persons}: {wanted} persons cannot be held out\n"
            f"  found: {len(eligible)} of {len(everyone)} training persons are {needs}\n"
            f"  want:  {f'{FIELD}={most} or fewer, or null' if most >= FEWEST else f'{FIELD}=null'}"
            " to choose the best checkpoint on the test images"
        )
    rng = np.random.default_rng([seed, 0, STREAM])
    chosen = set(rng.choice(eligible, wanted, replace=False).tolist())
    drawn = train.of(chosen)
    queries = _one_of_each_view(drawn, rng)
    asked = [drawn.images[row] for row in sorted(queries)]
    if known:
        query, gallery = asked, list(drawn.images)
    else:
        query = [PersonImage(image.file, image.person, 1) for image in asked]
        gallery = [
            PersonImage(image.file, image.person, 2) for row, image in enumerate(drawn.images) if row not in queries
        ]
    rest = train.of(set(everyone.tolist()) - chosen)
    return Roles(rest, Split(train.root, tuple(query)), Split(train.root, tuple(gallery)))


def _eligible(train: Split, *, known: bool) -> list[int]:
    """The persons, ascending, for whom a query has a match in the gallery."""
    views: dict[int, set[int | str]] = {}
    for image in train.images:
        views.setdefault(image.person, set()).add(image.camera if known else image.file)
    return sorted(person for person, seen in views.items() if len(seen) > 1)


def _one_of_each_view(split: Split, rng: np.random.Generator) -> set[int]:
    """A row drawn from the images of each person and camera."""
    rows: dict[tuple[int, int], list[int]] = {}
    for row, image in enumerate(split.images):
        rows.setdefault((image.person, image.camera), []).append(row)
    return {own[rng.integers(len(own))] for _, own in sorted(rows.items())}
