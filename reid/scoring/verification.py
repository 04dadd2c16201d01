"""Verification: how well a distance tells whether two images show the same person, and thresholds to decide by."""

import heapq
import logging
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.embeddings import Embeddings
from reid.retrieval.threshold import PairCounter, Verification
from reid.scoring.matches import protocol_of
from reid.thresholds import Threshold, Thresholds, name_of_rate

logger = logging.getLogger(__name__)

HISTOGRAM_BINS = 80
STRAIGHT = 5e-4
"""A curve this near to a straight line, in shares of 1, is drawn as the line: less than a pixel."""


@dataclass(frozen=True)
class PairHistogram:
    """How many genuine pairs (same person, other camera) and impostor pairs lie in each step of distance."""

    edges: NDArray[np.float64]
    """(bins + 1,)."""
    genuine: NDArray[np.int64]
    """(bins,)."""
    impostor: NDArray[np.int64]
    """(bins,)."""


class RocRow(NamedTuple):
    """One point of the receiver operating curve."""

    cosine: float
    """Pairs at least this similar are accepted."""
    true_match_rate: float
    false_match_rate: float


@dataclass(frozen=True)
class ThresholdRow:
    """What follows if all pairs up to a distance are taken for the same person."""

    name: str
    distance: float
    true_match_rate: float
    """Share of genuine pairs accepted."""
    false_match_rate: float
    """Share of impostor pairs accepted."""
    precision: float
    """Share of accepted pairs that are genuine."""


def pair_counter(query: Embeddings, gallery: Embeddings) -> PairCounter | None:
    """The counter of pairs for `score`; None, with a warning, if there is no pair of two persons."""
    if not have_two_persons(query, gallery):
        logger.warning("no query of a known person is compared with an image of another; no threshold can be judged")
        return None
    return PairCounter(protocol_of(query, gallery), low=0, high=4)


def have_two_persons(query: Embeddings, gallery: Embeddings) -> bool:
    """Whether a query of a known person is compared with an image of another."""
    known, facing = np.unique(query.person[query.person > 0]), gallery.person[gallery.person >= 0]
    return bool(known.size) and len(np.union1d(known, facing)) > 1


def pair_histogram(found: Verification) -> PairHistogram:
    """The genuine and the impostor pairs in 80 equal steps of distance."""
    edges = np.linspace(0, max(float(found.thresholds[-1]), 1e-6), HISTOGRAM_BINS + 1)

    def counts(accepted_share: NDArray[np.float64], pairs: int) -> NDArray[np.int64]:
        added = np.diff(accepted_share) * pairs  # at each threshold beyond the first, which accepts nothing
        counted = np.histogram(found.thresholds[1:], edges, weights=added)[0]
        return np.asarray(np.rint(counted), np.int64)

    return PairHistogram(
        edges,
        counts(found.true_match_rate, found.same_person_pairs),
        counts(found.false_match_rate, found.different_person_pairs),
    )


def roc_rows(found: Verification, *, points: int) -> list[RocRow]:
    """The receiver operating curve in at most `points` points, dense where it bends, both ends included.

    Straight lines between them are never further from the curve than STRAIGHT, if so few points can do that.
    """
    return [
        RocRow(1 - float(found.thresholds[at]) / 2, float(found.true_match_rate[at]), float(found.false_match_rate[at]))
        for at in _bends(found.false_match_rate, found.true_match_rate, points=points)
    ]


def _bends(x: NDArray[np.float64], y: NDArray[np.float64], *, points: int) -> list[int]:
    """At most `points` places of a curve: its ends, then always the place that is furthest from the straight lines.

    x, y (T,). Ramer 1972, Douglas & Peucker 1973, with the worst line first.
    """
    chosen = [0, len(x) - 1]
    lines = [_furthest(x, y, 0, len(x) - 1)]
    while len(chosen) < points and lines and -lines[0][0] > STRAIGHT:
        _, at, first, last = heapq.heappop(lines)
        chosen.append(at)
        heapq.heappush(lines, _furthest(x, y, first, at))
        heapq.heappush(lines, _furthest(x, y, at, last))
    return sorted(chosen)


def _furthest(x: NDArray[np.float64], y: NDArray[np.float64], first: int, last: int) -> tuple[float, int, int, int]:
    """(minus the distance, the place) of the curve's place furthest from the line from first to last, and these two."""
    across, up = x[last] - x[first], y[last] - y[first]
    away_x, away_y = x[first : last + 1] - x[first], y[first : last + 1] - y[first]
    length = float(np.hypot(across, up))
    distance = np.abs(across * away_y - up * away_x) / length if length else np.hypot(away_x, away_y)
    at = int(distance.argmax())
    return -float(distance[at]), first + at, first, last


def threshold_rows(found: Verification) -> list[ThresholdRow]:
    """The thresholds worth knowing; a false match rate that is less than one pair is left out."""
    wanted = [("best F1", found.best_f1_threshold), ("equal error", found.equal_error_threshold)]
    wanted += [
        (name_of_rate(rate), point.threshold)
        for rate, point in found.at_false_match_rate.items()
        if rate * found.different_person_pairs >= 1
    ]
    rows = []
    for name, threshold in wanted:
        at = int(np.searchsorted(found.thresholds, threshold, side="right")) - 1
        right = found.true_match_rate[at] * found.same_person_pairs
        wrong = found.false_match_rate[at] * found.different_person_pairs
        precision = float(right / (right + wrong)) if right + wrong else 1.0
        rates = float(found.true_match_rate[at]), float(found.false_match_rate[at])
        rows.append(ThresholdRow(name, threshold, *rates, precision))
    return rows


def thresholds_of(found: Verification, *, measured_on: str) -> Thresholds:
    """The thresholds worth knowing as they travel with the model."""
    rows = (
        Threshold(row.name, 1 - row.distance / 2, row.true_match_rate, row.false_match_rate, row.precision).rounded()
        for row in threshold_rows(found)
    )
    return Thresholds(tuple(rows), measured_on, found.same_person_pairs, found.different_person_pairs)
