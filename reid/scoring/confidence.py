"""How far mAP and rank-1 may be off: 95 % intervals, and the interval of a difference, by a bootstrap over persons.

A test set is a sample of persons. Two queries of one person rise and fall together, so the persons are drawn again,
with all their queries, and not the queries alone (cluster bootstrap: Field & Welsh, JRSS B 2007). The gallery stays as
it is: the interval says what other persons in front of the same cameras would have given, not what another gallery
would have. The figure is a mean over queries, so a draw of persons gives a ratio of two sums, and persons with many
queries weigh more, as in mAP itself.

The plain percentiles of the draws cover too little if persons are few: 88 % instead of 95 % at 10 persons. So they are
corrected for bias and skewness (BCa: Efron, JASA 1987) and widened for few persons as Student's t is wider than the
normal distribution (Hesterberg, The American Statistician 2015): 92 to 94 % at 10 persons, 93 to 96 % at 20.

Shapes: Q queries, P persons, B draws.
"""

import math
from dataclasses import dataclass, replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from reid.errors import DatasetError

DRAWS = 2000
LEVEL = 0.95
FEW_PERSONS = 20
"""With fewer persons the true figure lies outside of more than 5 % of the intervals."""
AT_ONCE = 1 << 20
"""Largest number of persons that are drawn in one step, so that memory stays bounded."""
NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A figure and the range in which it would probably lie for other persons."""

    value: float
    low: float
    """nan if there is one person only: nothing can be said."""
    high: float
    persons: int
    """Number of persons that were drawn from."""

    @property
    def known(self) -> bool:
        """Whether there is a range at all."""
        return math.isfinite(self.low)

    @property
    def few(self) -> bool:
        """Whether there are so few persons that the range is rather too narrow."""
        return self.persons < FEW_PERSONS

    @property
    def range_in_percent(self) -> str:
        """The ends in percent with a dash between them, as texts show them; "" if they are not known."""
        return f"{100 * self.low:.1f}\u2013{100 * self.high:.1f}" if self.known else ""

    @property
    def in_percent(self) -> str:
        """The figure in percent, with its range in brackets if that is known."""
        return f"{100 * self.value:.1f}" + (f" ({self.range_in_percent})" if self.known else "")

    def metrics(self, name: str, end: str = "") -> dict[str, float]:
        """The ends of the range as `name`_low and `name`_high, then `end`; nothing if they are not known."""
        return {f"{name}_low{end}": self.low, f"{name}_high{end}": self.high} if self.known else {}


def mean_interval(value: NDArray[np.float64], person: NDArray[np.int64], *, seed: int, draws: int = DRAWS) -> Interval:
    """value (Q,) of each query, person (Q,) -> the mean over queries and its 95 % interval.

    Queries whose value is nan, which have no match, count in nothing. If all values are equal, so are the ends: persons
    who differ in nothing say nothing of others. Raises DatasetError if no query is left.
    """
    known = np.isfinite(value)
    if not known.any():
        raise DatasetError(f"confidence: none of {len(value)} queries has a value\n  want: at least one with a match")
    _, place = np.unique(person[known], return_inverse=True)
    total = np.bincount(place, weights=value[known]).astype(np.float64)  # (P,)
    queries = np.bincount(place).astype(np.float64)  # (P,)
    mean, persons = float(value[known].mean()), len(total)
    if persons < 2:
        return Interval(mean, math.nan, math.nan, persons)
    drawn = _drawn_means(total, queries, seed=seed, draws=draws)
    shares = _shares(float(total.sum() / queries.sum()), drawn, total, queries)
    low, high = np.quantile(drawn, shares)
    return Interval(mean, float(min(low, mean)), float(max(high, mean)), persons)


def share_interval(value: NDArray[np.float64], person: NDArray[np.int64], *, seed: int, draws: int = DRAWS) -> Interval:
    """`mean_interval` of values from 0 to 1, such as average precision, that says something of equal values too.

    All persons of a small test set may be right at rank 1 though others would not be. If a share s of all persons were
    others, none of them would be among P persons with probability (1 - s)^P: 2.5 % at the s that is taken here, and
    they might all be wrong, or right (Clopper & Pearson, Biometrika 1934).
    """
    found = mean_interval(value, person, seed=seed, draws=draws)
    if found.low < found.high or not found.known:
        return found
    alike = ((1 - LEVEL) / 2) ** (1 / found.persons)
    return replace(found, low=found.value * alike, high=1 - (1 - found.value) * alike)


def difference_interval(
    value: NDArray[np.float64], other: NDArray[np.float64], person: NDArray[np.int64], *, seed: int
) -> Interval:
    """value (Q,) and other (Q,) of the same queries -> the mean of value - other and its 95 % interval, paired.

    Both models are seen on the same drawn persons, so that what makes a person easy for both cancels out. A model is
    better by more than chance if the interval lies above 0. Raises DatasetError if no query has both values.
    """
    return mean_interval(value - other, person, seed=seed)


def _drawn_means(
    total: NDArray[np.float64], queries: NDArray[np.float64], *, seed: int, draws: int
) -> NDArray[np.float64]:
    """(B,): the mean over the queries of as many persons as there are, drawn with replacement. total, queries (P,)."""
    rng = np.random.default_rng(seed)
    persons, rows = len(total), max(1, AT_ONCE // len(total))
    means = np.empty(draws)
    for first in range(0, draws, rows):
        part = means[first : first + rows]
        chosen = rng.integers(0, persons, (len(part), persons), dtype=np.int32)
        part[:] = total[chosen].sum(axis=1) / queries[chosen].sum(axis=1)
    return means


def _shares(
    mean: float, drawn: NDArray[np.float64], total: NDArray[np.float64], queries: NDArray[np.float64]
) -> tuple[float, float]:
    """Which shares of the draws lie below the interval's two ends; 2.5 % and 97.5 % would be the plain percentiles.

    Efron 1987, eq. 3.8 and (acceleration, by leaving one person out) 6.6; the normal quantile is Hesterberg's.
    """
    tolerance = 1e-12 * max(1.0, abs(mean))  # draws equal to the mean differ from it by rounding
    below = float((drawn < mean - tolerance).mean() + 0.5 * (np.abs(drawn - mean) <= tolerance).mean())
    bias = NORMAL.inv_cdf(min(max(below, 1 / len(drawn)), 1 - 1 / len(drawn)))
    without = (total.sum() - total) / (queries.sum() - queries)  # (P,)
    away = without.mean() - without
    spread = float((away**2).sum())
    skew = float((away**3).sum()) / (6 * spread**1.5) if spread > 1e-24 else 0.0
    persons = len(total)
    reach = math.sqrt(persons / (persons - 1)) * _student(persons - 1)
    low, high = (NORMAL.cdf(bias + (bias + side) / max(1 - skew * (bias + side), 1e-3)) for side in (-reach, reach))
    return low, high


def _student(freedom: int) -> float:
    """The quantile of Student's t with so many degrees of freedom that LEVEL asks for.

    Abramowitz & Stegun 1964, 26.7.5; off by 11 % at 1 degree of freedom, by 1 % at 2, and by less than 0.1 % from 3 on.
    """
    z = NORMAL.inv_cdf((1 + LEVEL) / 2)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + math.fsum(term / freedom**power for power, term in enumerate(terms, start=1))
