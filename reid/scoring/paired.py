"""Is one model better than another, measured on the same queries? Differences query by query, judged over persons.

B is better if two tests agree. The 95 % interval of the difference by a bootstrap over persons has to lie above 0
(reid.scoring.confidence). And the p-value of a permutation test has to be below 5 %: if both models were equally good,
the sign of each person's difference would be a matter of chance, so the signs are drawn again and again (Fisher's
randomisation test; Smucker et al., CIKM 2007, for retrieval). The interval alone takes three persons who gain, while
all others stay as they are, for evidence, though all three gain by chance in one of eight cases.

Shapes: Q queries, P persons, B draws.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.scoring.confidence import Interval, difference_interval
from reid.scoring.per_query import KINDS, PerQuery

FLIPS = 10_000
FLIPS_AT_ONCE = 500
FIGURES = ("mAP", "rank1")
MOST_CHANCE = 0.05
"""The p-value from which on no difference is shown."""
FEWEST_PERSONS = 6
"""With fewer persons none can be shown: all of P persons gain, or all lose, by chance in 2 of 2^P cases."""


@dataclass(frozen=True)
class Difference:
    """One figure of both models, as fractions, and B's minus A's."""

    name: str
    """As among the metrics: mAP, rank1, reranked_mAP, reranked_rank1."""
    first: float
    second: float
    interval: Interval
    """Of B minus A."""
    chance: float
    """How often drawn signs give a difference as large as this one: the permutation test's p-value."""

    @property
    def standing(self) -> int:
        """1 if B is shown to be better, -1 if it is shown to be worse, 0 if neither is shown."""
        return standing_of(self.interval, self.chance)

    def in_words(self) -> str:
        """The verdict as a sentence, in percentage points."""
        verdict = {1: "B is better", -1: "B is worse", 0: "no difference shown"}[self.standing]
        return f"{verdict}: {self.in_points()}"

    def in_points(self) -> str:
        """The difference and its interval in percentage points: mAP +3.10 (+1.20 to +5.00).

        p stands there if it alone keeps the difference from being shown.
        """
        alone = not self.standing and (self.interval.low > 0 or self.interval.high < 0)
        p_value = f", but p is {self.chance:.2g}" if alone else ""
        return f"{in_words(self.name)} {points(self.interval.value)} ({between(self.interval)}{p_value})"


def between(interval: Interval) -> str:
    """The ends of an interval in percentage points: +1.2 to +5.0."""
    if not interval.known:
        return "one person, so no interval"
    return f"{points(interval.low)} to {points(interval.high)}"


def standing_of(interval: Interval, chance: float) -> int:
    """1 if the interval lies above 0, -1 if below; 0 if it contains 0 or is not known, or if p is not below 5 %."""
    if chance >= MOST_CHANCE:
        return 0
    return int(interval.low > 0) - int(interval.high < 0)


def in_words(name: str) -> str:
    """The figure as it is spoken of: reranked_rank1 is re-ranked rank-1."""
    spoken = name.removeprefix("reranked_").replace("rank1", "rank-1")
    return f"re-ranked {spoken}" if name.startswith("reranked_") else spoken


def points(fraction: float) -> str:
    """A difference of fractions in percentage points, with its sign."""
    return f"{round(100 * fraction, 2) + 0.0:+.2f}"  # + 0.0: no "-0.00"


def differences(first: PerQuery, second: PerQuery, *, seed: int) -> list[Difference]:
    """All figures of two tables of the same queries in the same order, plain ones first."""
    return [
        difference(first, second, f"{'reranked_' if kind == 'reranked' else ''}{figure}", seed=seed)
        for kind in KINDS
        for figure in FIGURES
    ]


def difference(first: PerQuery, second: PerQuery, name: str, *, seed: int) -> Difference:
    """One figure of two tables of the same queries in the same order. Raises DatasetError if none has a match."""
    ours, theirs = values_of(second, name), values_of(first, name)
    interval = difference_interval(ours, theirs, first.person, seed=seed)
    both = np.isfinite(ours) & np.isfinite(theirs)
    chance = sign_flips((ours - theirs)[both], first.person[both], seed=seed)
    return Difference(name, float(theirs[both].mean()), float(ours[both].mean()), interval, chance)


def values_of(table: PerQuery, name: str) -> NDArray[np.float64]:
    """(Q,): what each query adds to a figure: its average precision, or whether its nearest image is right."""
    ranking = table.rankings["reranked" if name.startswith("reranked_") else "plain"]
    if name.endswith("mAP"):
        return ranking.average_precision
    found = ranking.first_match_rank
    return np.where(found > 0, (found == 1).astype(np.float64), np.nan)


def sign_flips(difference: NDArray[np.float64], person: NDArray[np.int64], *, seed: int) -> float:
    """difference (Q,), person (Q,) -> two-sided p-value of a mean of 0, the sign of each person's sum being chance."""
    _, place = np.unique(person, return_inverse=True)
    total = np.bincount(place, weights=difference)  # (P,)
    found = abs(total.sum()) - 1e-9 * np.abs(total).sum()  # rounding must not make an equal sum a smaller one
    rng, reached = np.random.default_rng(seed), 0
    for _ in range(0, FLIPS, FLIPS_AT_ONCE):
        signs = rng.integers(0, 2, (FLIPS_AT_ONCE, len(total)), np.int8) * 2.0 - 1.0
        reached += int((np.abs(signs @ total) >= found).sum())
    return (reached + 1) / (FLIPS + 1)
