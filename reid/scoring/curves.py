"""The figures of one ranking, as a plot takes them. R CMC ranks."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.scoring.confidence import Interval

KINDS = {
    "reranked": "trained, re-ranked",
    "plain": "trained, plain",
    "untrained_reranked": "untrained, re-ranked",
    "untrained": "untrained, plain",
}
"""Kind of ranking -> its name in figures and reports."""


@dataclass(frozen=True)
class Curve:
    """The figures of one ranking."""

    kind: str
    """A key of KINDS."""
    cmc: NDArray[np.float64]
    """(R,): share of queries with a right image among the first 1..R places."""
    mAP: float  # noqa: N815
    mINP: float  # noqa: N815
    mAP_interval: Interval | None = None  # noqa: N815
    """mAP with its range for other persons."""
    rank1_interval: Interval | None = None

    @property
    def name(self) -> str:
        """The ranking's name in figures and reports."""
        return KINDS[self.kind]

    @property
    def rank1(self) -> float:
        """Share of queries whose nearest image is right."""
        return float(self.cmc[0])
