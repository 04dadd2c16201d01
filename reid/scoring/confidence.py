"""How far mAP and rank-1 may be off: 95 % intervals, and the interval of a difference, by a bootstrap over persons.

A test set is a sample of persons. Two queries of one person rise and fall together, so the persons are drawn again,
with all their queries, and not the queries alone (cluster bootstrap: Field & Welsh,
JRSS B 2007). The gallery stays as it is: the interval says what other persons in front of the same cameras
would have given, not what another gallery would have.

Shapes: Q queries, P persons, B draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.errors import DatasetError

DRAWS = 2000
LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A figure and the range in which it would probably lie for other persons."""

    value: float
    low: float
    high: float
    persons: int
    """Number of persons that were drawn from; below about 20 the range is too narrow."""


def mean_interval(value: NDArray[np.float64], person: NDArray[np.int64], *, seed: int) -> Interval:
    """value (Q,) of each query, person (Q,) -> the mean over queries and its 95 % interval (percentiles).

    Queries whose value is nan, which have no match, count in nothing. Raises DatasetError if none is left.
    """
    drawn = _drawn_means(value, person, seed=seed)
    known = np.isfinite(value)
    return _interval(float(value[known].mean()), drawn, persons=len(np.unique(person[known])))


def difference_interval(
    value: NDArray[np.float64], other: NDArray[np.float64], person: NDArray[np.int64], *, seed: int
) -> Interval:
    """value (Q,) and other (Q,) of the same queries -> the mean of value - other and its 95 % interval, paired.

    Both models are seen on the same drawn persons, so that what makes a person easy for both cancels out. A model is
    better by more than chance if the interval lies above 0. Raises DatasetError if no query has both values.
    """
    return mean_interval(value - other, person, seed=seed)


def _drawn_means(value: NDArray[np.float64], person: NDArray[np.int64], *, seed: int) -> NDArray[np.float64]:
    """(B,): the mean over the queries of as many persons as there are, drawn with replacement."""
    known = np.isfinite(value)
    if not known.any():
        raise DatasetError(f"confidence: none of {len(value)} queries has a value\n  want: at least one with a match")
    _, place = np.unique(person[known], return_inverse=True)
    total, queries = np.bincount(place, weights=value[known]), np.bincount(place)  # (P,), (P,)
    rng = np.random.default_rng(seed)
    times = rng.multinomial(len(total), np.full(len(total), 1 / len(total)), size=DRAWS)  # (B, P)
    means: NDArray[np.float64] = (times @ total) / (times @ queries)
    return means


def _interval(value: float, drawn: NDArray[np.float64], *, persons: int) -> Interval:
    low, high = np.quantile(drawn, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return Interval(value, float(low), float(high), persons)
