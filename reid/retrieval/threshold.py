"""Verification: do two images show one person? Every query against every gallery image, at every threshold.

The idea: a market of 3,368 queries and 15,913 gallery images has 54 million pairs, too many to sort. The range of
distances is cut into BINS equal steps, and same-person and different-person pairs are counted in each step. The running
sums of both counts are the receiver operating curve, exact to the width of one step.

Q queries, G gallery images, T thresholds. Pairs that the ranking protocol ignores are left out: an image of the query's
own person from its own camera, and junk.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.errors import DatasetError
from reid.retrieval.parallel import compiled, in_order, shares, worker_pool
from reid.retrieval.protocol import Floats, Integers, Protocol, market_protocol

BINS = 1 << 17
"""Number of equal steps into which the range of distances is cut."""
FALSE_MATCH_RATES = (1e-2, 1e-3, 1e-4)
ROWS = 128
"""Largest number of queries that a thread works on at a time."""


@dataclass(frozen=True)
class OperatingPoint:
    """The effect of a threshold: a pair at most `threshold` apart is accepted as one person."""

    threshold: float
    true_match_rate: float
    """Share of same-person pairs that are accepted."""
    false_match_rate: float
    """Share of different-person pairs that are accepted."""


@dataclass(frozen=True)
class Verification:
    """The receiver operating curve over T thresholds and the points of interest on it."""

    thresholds: NDArray[np.float64]
    """(T,), rising; the first accepts nothing. Exact to one step, 1 / 131,072 of the range of distances."""
    true_match_rate: NDArray[np.float64]
    """(T,)."""
    false_match_rate: NDArray[np.float64]
    """(T,)."""
    equal_error_rate: float
    """The rate at which the share of accepted different-person pairs equals that of refused same-person pairs."""
    equal_error_threshold: float
    at_false_match_rate: dict[float, OperatingPoint]
    """The highest thresholds that accept at most 1e-2, 1e-3 and 1e-4 of the different-person pairs."""
    best_f1: float
    best_f1_threshold: float
    same_person_pairs: int
    different_person_pairs: int


def verification(
    distance: Floats,
    *,
    query_person: Integers,
    query_camera: Integers,
    gallery_person: Integers,
    gallery_camera: Integers,
) -> Verification:
    """distance (Q, G), persons and cameras (Q,) and (G,) -> Verification.

    Raises DatasetError if no pair is of one person or none is of two, ValueError if a distance is not finite.
    """
    low, high = float(distance.min()), float(distance.max())
    if not np.isfinite(low) or not np.isfinite(high):
        raise ValueError("distance: not all finite")
    protocol = market_protocol(
        query_person=query_person,
        query_camera=query_camera,
        gallery_person=gallery_person,
        gallery_camera=gallery_camera,
    )
    counter = PairCounter(protocol, low=low, high=high)
    counter.add(0, distance)
    return counter.verification()


class _Bins(NamedTuple):
    """Pairs by distance: bin b holds those in (low + b / steps, low + (b + 1) / steps], the first also `low`."""

    low: float
    steps: float
    """Bins per unit of distance."""
    same: Integers
    """(BINS,): pairs of one person."""
    different: Integers
    """(BINS,): pairs of two persons."""


class PairCounter:
    """`verification` for distances that come in blocks of queries.

    All distances must lie in low..high: 0..4 for squared Euclidean ones, 0..1 for re-ranked ones.
    """

    def __init__(self, protocol: Protocol, *, low: float, high: float) -> None:
        self._protocol, self._low = protocol, low
        self._step = (high - low) / BINS or 1.0
        self.forget()

    def forget(self) -> None:
        """Counts from zero again."""
        self._bins = self._empty()

    @property
    def scale(self) -> tuple[float, float]:
        """(low, bins per unit of distance): what `add_counted` wants the pairs to be counted by."""
        return self._bins.low, self._bins.steps

    def _empty(self) -> _Bins:
        return _Bins(self._low, 1 / self._step, np.zeros(BINS, np.int64), np.zeros(BINS, np.int64))

    def add(self, first_query: int, distance: Floats) -> None:
        """Counts the pairs in distance (rows, G), whose rows are the queries from `first_query` on."""
        distance, protocol = self._protocol.block(distance, first_query)

        def count(rows: tuple[int, int]) -> _Bins:
            bins = self._empty()
            _count_rows(*rows, distance, protocol, bins)
            return bins

        with worker_pool() as pool:
            for bins in in_order(pool, count, shares(len(distance), most=ROWS)):
                self.add_counted(bins.same, bins.different)

    def add_counted(self, same: Integers, different: Integers) -> None:
        """Adds pairs of one person and of two, (BINS,) each, that were counted elsewhere; see `scale`.

        A distance d is in bin ceil((d - low) * steps) - 1, the lowest one in bin 0.
        """
        np.add(self._bins.same, same, out=self._bins.same)
        np.add(self._bins.different, different, out=self._bins.different)

    def verification(self) -> Verification:
        """The curve of all pairs that were added."""
        same_pairs, different_pairs = int(self._bins.same.sum()), int(self._bins.different.sum())
        if not same_pairs or not different_pairs:
            queries, gallery = len(self._protocol.query_person), len(self._protocol.gallery_person)
            raise DatasetError(
                f"verification: {same_pairs} pairs of one person and {different_pairs} pairs of two, "
                f"from {queries} queries and {gallery} gallery images\n"
                f"  want: at least one of each"
            )
        filled = np.flatnonzero(self._bins.same + self._bins.different)
        thresholds = self._low + self._step * np.concatenate([[filled[0]], filled + 1])
        accepted = np.concatenate([[0], self._bins.same[filled].cumsum()])
        wrong = np.concatenate([[0], self._bins.different[filled].cumsum()])
        return _curve(thresholds, accepted, wrong)


def _curve(thresholds: NDArray[np.float64], accepted: Integers, wrong: Integers) -> Verification:
    """Thresholds (T,) with the same-person and the different-person pairs that each accepts -> Verification."""
    true_match_rate, false_match_rate = accepted / accepted[-1], wrong / wrong[-1]
    error, threshold = _equal_error(thresholds, true_match_rate, false_match_rate)
    f1 = 2 * accepted / (accepted + wrong + accepted[-1])
    points = {}
    for rate in FALSE_MATCH_RATES:
        at = int(np.searchsorted(false_match_rate, rate, side="right")) - 1
        points[rate] = OperatingPoint(float(thresholds[at]), float(true_match_rate[at]), float(false_match_rate[at]))
    return Verification(
        thresholds=thresholds,
        true_match_rate=true_match_rate,
        false_match_rate=false_match_rate,
        equal_error_rate=error,
        equal_error_threshold=threshold,
        at_false_match_rate=points,
        best_f1=float(f1.max()),
        best_f1_threshold=float(thresholds[f1.argmax()]),
        same_person_pairs=int(accepted[-1]),
        different_person_pairs=int(wrong[-1]),
    )


def _equal_error(
    thresholds: NDArray[np.float64], true_match_rate: NDArray[np.float64], false_match_rate: NDArray[np.float64]
) -> tuple[float, float]:
    """(rate, threshold) at which false matches equal false non-matches, interpolated between two thresholds."""
    excess = false_match_rate - (1 - true_match_rate)  # from -1 to 1, rising
    after = int(np.argmax(excess >= 0))
    share = -excess[after - 1] / (excess[after] - excess[after - 1])
    pair = slice(after - 1, after + 1)
    rate, threshold = np.diff(false_match_rate[pair])[0] * share, np.diff(thresholds[pair])[0] * share
    return float(false_match_rate[after - 1] + rate), float(thresholds[after - 1] + threshold)


@compiled()
def _count_rows(first: int, end: int, distance: Floats, protocol: Protocol, bins: _Bins) -> None:
    last = len(bins.same) - 1
    for query in range(first, end):
        person, camera = protocol.query_person[query], protocol.query_camera[query]
        if person <= 0:
            continue
        for index in range(distance.shape[1]):
            other = protocol.gallery_person[index]
            if other < 0 or (other == person and protocol.gallery_camera[index] == camera):
                continue
            place = int(np.ceil((np.float64(distance[query, index]) - bins.low) * bins.steps)) - 1
            place = min(max(place, 0), last)
            if other == person:
                bins.same[place] += 1
            else:
                bins.different[place] += 1
