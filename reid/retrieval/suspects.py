"""Suspected labels: images that look like another person's, two persons who look like one, one who looks like two.

All three compare like with like, for one wall makes strangers alike. What the images of a camera have in common is
subtracted. An image is compared with images of its own camera and with those of other cameras, each by itself, and
another person has to be nearer than its own one in both. So there is no verdict on an image if its own person and the
other one are not seen under views that can be compared.

Shapes: N images, D values each, K neighbours, n images of a person. Vectors have length 1; similarity is the cosine.
"""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.retrieval.distance import l2_normalize

Floats = NDArray[np.float32]
Ints = NDArray[np.int64]

NEAREST_MEANT = 3
"""An image's similarity to a person is the mean of its similarities to so many of their images, the nearest ones."""
PERSONS_OF_A_MEAN = 10
"""Fewest persons whose images have a mean that is the camera's and not theirs."""
LEAST_LENGTH = 1e-4
"""Length below which nothing is left of a vector, and it stays as it was."""
PERSONS_TRIED = 5
"""Other persons that an image is compared with: those of its nearest neighbours."""
MUTUAL_SHARE = 0.3
"""Least share of the images of each of two persons whose nearest other person is the other one, if they may be one."""
OUTLYING = 3.0
"""Robust standard deviations above the median of all persons from which a person's parts are suspiciously far apart."""
FEWEST_OF_A_PART = 2
"""Fewest images of each part of a person who may be two."""


class WrongLabel(NamedTuple):
    """An image that is nearer to another person than to its own one."""

    margin: float
    """How much more similar it is to the other person; the larger, the more suspect."""
    row: int
    person: int
    other: int
    nearest_own: int
    """Row of the most similar image of its own person."""
    nearest_other: int


class SamePerson(NamedTuple):
    """Two persons who may be one."""

    margin: float
    """Mean margin of their images towards the other person; strangers are far below 0."""
    person: int
    other: int
    row: int
    """Row of the image of `person` that is nearest to one of `other`."""
    nearest_other: int


class TwoPersons(NamedTuple):
    """A person whose images may be of two."""

    separation: float
    """How much more similar an image is to its own part than to the other one, in the mean."""
    person: int
    first: tuple[int, ...]
    """Rows of the larger part."""
    second: tuple[int, ...]


@dataclass(frozen=True)
class Suspects:
    """All suspects, worst first."""

    wrong_labels: list[WrongLabel]
    same_persons: list[SamePerson]
    two_persons: list[TwoPersons]
    usual_margin: float
    """The median margin of an image, below 0: how far the nearest other person usually is."""

    @property
    def kinds(self) -> tuple[Sequence[NamedTuple], ...]:
        """The suspects of each kind."""
        return self.wrong_labels, self.same_persons, self.two_persons


def without_cameras(unit: Floats, *, person: Ints, camera: Ints) -> Floats:
    """unit (N, D) -> (N, D) of length 1, without what all images of a camera have in common: its wall and light.

    The mean of a camera is subtracted if it shows PERSONS_OF_A_MEAN persons, else the mean of all images.
    """
    centred = unit - unit.mean(axis=0)
    for one in np.unique(camera):
        rows = np.flatnonzero(camera == one)
        if len(np.unique(person[rows])) >= PERSONS_OF_A_MEAN:
            centred[rows] = unit[rows] - unit[rows].mean(axis=0)
    length = np.linalg.norm(centred, axis=1, keepdims=True)
    return l2_normalize(np.where(length > LEAST_LENGTH, centred, unit))


def find_suspects(unit: Floats, *, person: Ints, camera: Ints, nearest: NDArray[np.integer]) -> Suspects:
    """unit (N, D), person and camera (N,), rows of the nearest neighbours (N, K) -> the suspects.

    All persons count, so that junk and distractors have to be left out before.
    """
    rows_of = {int(who): np.flatnonzero(person == who) for who in np.unique(person)}
    views = _Views(unit, camera)
    found: dict[int, tuple[float, int]] = {}  # row -> (margin, the other person)
    with Progress("comparing persons", len(unit)) as progress:
        for row in range(len(unit)):
            if best := _nearest_other_person(row, person=person, nearest=nearest, rows_of=rows_of, views=views):
                found[row] = best
            progress.update(row + 1)
    usual = float(np.median([margin for margin, _ in found.values()])) if found else 0.0
    same = _same_persons(found, person=person, rows_of=rows_of, views=views, least=min(usual, 0.0) / 4)
    pairs = {(one.person, one.other) for one in same} | {(one.other, one.person) for one in same}
    wrong = [
        WrongLabel(
            margin, row, int(person[row]), other, *views.nearest_of(row, rows_of[int(person[row])], rows_of[other])
        )
        for row, (margin, other) in found.items()
        if margin > 0 and (int(person[row]), other) not in pairs
    ]
    suspected = np.array([one.row for one in wrong], np.int64)
    as_two = [_as_two(who, np.setdiff1d(rows, suspected), views) for who, rows in rows_of.items()]
    two = _outliers([one for one in as_two if one], least=-min(usual, 0.0))
    return Suspects(sorted(wrong, reverse=True), same, sorted(two, reverse=True), usual)


class _Views:
    """Similarities of an image to groups of images, those of its own camera and those of others apart."""

    def __init__(self, unit: Floats, camera: Ints) -> None:
        self.unit = unit
        self._camera = camera

    def margin(self, row: int, own: Ints, other: Ints) -> float:
        """How much nearer an image is to the images `other` than to the images `own`; nan if no view is common."""
        return _margin(self.similarity(row, own), self.similarity(row, other))

    def similarity(self, row: int, rows: Ints) -> tuple[float, float]:
        """To images of the same camera, and to images of other cameras, without itself; nan if there are none."""
        rows = rows[rows != row]
        similarity = self.unit[rows] @ self.unit[row]
        same = self._camera[rows] == self._camera[row]
        return _mean_of_nearest(similarity[same]), _mean_of_nearest(similarity[~same])

    def nearest_of(self, row: int, *groups: Ints) -> list[int]:
        """The most similar image of each group, without the image itself."""
        return [int(rows[np.argmax(self._without(row, rows))]) for rows in groups]

    def _without(self, row: int, rows: Ints) -> Floats:
        return np.where(rows == row, -np.inf, self.unit[rows] @ self.unit[row]).astype(np.float32)


def _mean_of_nearest(similarity: Floats) -> float:
    if not similarity.size:
        return math.nan
    if len(similarity) > NEAREST_MEANT:
        similarity = np.partition(similarity, -NEAREST_MEANT)[-NEAREST_MEANT:]
    return float(similarity.sum()) / len(similarity)


def _margin(own: tuple[float, float], other: tuple[float, float]) -> float:
    """The smaller of the two differences; one that is nan does not count."""
    return min((b - a for a, b in zip(own, other) if not math.isnan(b - a)), default=math.nan)


def _nearest_other_person(
    row: int, *, person: Ints, nearest: NDArray[np.integer], rows_of: Mapping[int, Ints], views: _Views
) -> tuple[float, int] | None:
    """The largest margin of an image towards another person, and that person; None if nobody can be compared."""
    own = int(person[row])
    neighbours = person[nearest[row]]
    others = list(dict.fromkeys(neighbours[neighbours != own].tolist()))[:PERSONS_TRIED]
    to_own = views.similarity(row, rows_of[own])
    margins = [(_margin(to_own, views.similarity(row, rows_of[other])), other) for other in others]
    return max((entry for entry in margins if not math.isnan(entry[0])), default=None)


def _same_persons(
    found: Mapping[int, tuple[float, int]], *, person: Ints, rows_of: Mapping[int, Ints], views: _Views, least: float
) -> list[SamePerson]:
    """Pairs of persons most of whose images have the other one as their nearest other person, above `least`."""
    towards: Counter[tuple[int, int]] = Counter((int(person[row]), other) for row, (_, other) in found.items())
    pairs = []
    for one, other in towards:
        mutual = all(towards[a, b] >= MUTUAL_SHARE * len(rows_of[a]) for a, b in ((one, other), (other, one)))
        if one < other and mutual:
            margins = [views.margin(int(row), rows_of[one], rows_of[other]) for row in rows_of[one]]
            margins += [views.margin(int(row), rows_of[other], rows_of[one]) for row in rows_of[other]]
            margin = float(np.nanmean(margins))
            if margin > least:
                product = views.unit[rows_of[one]] @ views.unit[rows_of[other]].T
                row, column = np.unravel_index(int(product.argmax()), product.shape)
                pairs.append(SamePerson(margin, one, other, int(rows_of[one][row]), int(rows_of[other][column])))
    return sorted(pairs, reverse=True)


def _outliers(found: Sequence[TwoPersons], *, least: float) -> list[TwoPersons]:
    """Those whose parts are at least so far apart, and far farther than those of the other persons."""
    if not found:
        return []
    separation = np.array([one.separation for one in found])
    median = float(np.median(separation))
    spread = 1.4826 * float(np.median(np.abs(separation - median)))  # a normal distribution's standard deviation
    bar = max(least, median + OUTLYING * spread)
    return [one for one in found if one.separation > bar]


def _as_two(who: int, rows: Ints, views: _Views) -> TwoPersons | None:
    """The two parts of a person's images that differ most; None if there are too few images, or nothing to compare.

    The parts are the signs along the direction in which the vectors spread most.
    """
    if len(rows) < 2 * FEWEST_OF_A_PART:
        return None
    vectors = views.unit[rows].astype(np.float64)
    centred = vectors - vectors.mean(axis=0)
    direction = np.linalg.eigh(centred @ centred.T)[1][:, -1]  # (n,)
    parts = sorted((rows[direction > 0], rows[direction <= 0]), key=len, reverse=True)
    if len(parts[1]) < FEWEST_OF_A_PART:
        return None
    margins = [views.margin(int(row), own, other) for own, other in (parts, parts[::-1]) for row in own]
    if np.isnan(margins).all():
        return None
    return TwoPersons(-float(np.nanmean(margins)), who, tuple(map(int, parts[0])), tuple(map(int, parts[1])))
