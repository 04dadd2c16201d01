"""Chooses the images that a deployed model is compared on: real images of whole persons, so that they can be ranked.

Shapes: N images, H height, W width, C channels.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.market1501 import DISTRACTOR, JUNK, Manifest, Split
from reid.data.store import open_store
from reid.errors import DatasetError

PERSONS_SHARE = 0.75
"""The share of images of the chosen persons; the rest are gallery images of other persons."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Query and gallery images with their pixels."""

    query: Split
    gallery: Split
    """The gallery without junk; empty if there is nothing to rank."""
    query_pixels: NDArray[np.uint8]
    """(N, H, W, C), the pixels of the query images."""
    gallery_pixels: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.query) + len(self.gallery)


def open_sample(manifest: Manifest, *, limit: int, contract: Contract, store: Path) -> Sample:
    """At most `limit` images of a data set from its decode-once store; raises DatasetError if it has no query image."""
    if not len(manifest.query):
        raise DatasetError(f"{manifest.query.root}: no query image to compare models on\n  want: one at least")
    rows = choose_rows(manifest.query, manifest.gallery, limit=limit)
    size = {"height": contract.height, "width": contract.width, "channels": contract.channels}
    parts = []
    for split, chosen in zip((manifest.query, manifest.gallery), rows, strict=True):
        pixels = np.empty((0, *size.values()), np.uint8)
        if len(chosen):
            pixels = open_store(split, **size, folder=store, key=manifest.fingerprint)[chosen]
        parts.append((Split(split.root, tuple(split.images[row] for row in chosen)), pixels))
    (query, query_pixels), (gallery, gallery_pixels) = parts
    return Sample(query, gallery, query_pixels, gallery_pixels)


def choose_rows(query: Split, gallery: Split, *, limit: int) -> tuple[list[int], list[int]]:
    """Rows of the query and of the gallery, ascending, at most `limit` together; the same for the same data set.

    Persons are drawn and taken with all their images until three quarters of the limit are reached, at least one
    person. Gallery images of others, evenly spaced, fill the rest. If no query has a match, only query images are
    chosen.
    """
    asked, shown = query.person, gallery.person
    counted = np.flatnonzero(shown != JUNK)
    if len(asked) + len(counted) <= limit:
        return list(range(len(asked))), counted.tolist()
    persons = np.intersect1d(asked, shown)
    persons = persons[(persons != JUNK) & (persons != DISTRACTOR)]
    if not len(persons):
        return evenly(range(len(asked)), limit), []
    taken: list[int] = []
    images = 0
    for person in np.random.default_rng(0).permutation(persons):
        more = int((asked == person).sum() + (shown == person).sum())
        if taken and images + more > PERSONS_SHARE * limit:
            break
        taken.append(int(person))
        images += more
    queries, found = np.flatnonzero(np.isin(asked, taken)), np.isin(shown, taken)
    others = evenly([row for row in counted.tolist() if not found[row]], max(0, limit - images))
    return queries.tolist(), sorted([*np.flatnonzero(found).tolist(), *others])


def evenly(rows: Iterable[int], count: int) -> list[int]:
    """At most `count` of the rows, in their order and evenly spaced, so that all persons and cameras have a chance."""
    rows = list(rows)
    taken = min(len(rows), count)
    return [rows[index * len(rows) // taken] for index in range(taken)]
