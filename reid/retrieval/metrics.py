"""Scores of a ranking: CMC, mAP and mINP, without sorting the gallery. Q queries, G gallery images, R CMC ranks.

The idea: the scores depend only on the places of a query's matches in its ranking. The place of a match is 1 plus the
number of images that are nearer, which one pass over the distances counts. A query has few matches, so counting is
cheaper than sorting. Equally distant images rank by their index. protocol.py says which images match and which are
ignored.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.errors import DatasetError
from reid.retrieval.distance import distance_rows, euclidean_squared, l2_normalize
from reid.retrieval.parallel import compiled, run_all, shares, worker_pool
from reid.retrieval.protocol import Floats, Integers, Protocol, market_protocol, why_no_match

__all__ = ["Scorer", "Scores", "distance_rows", "euclidean_squared", "evaluate", "l2_normalize"]

ROWS = 64
"""Largest number of queries that a thread works on at a time."""
BLOCK = 4096
"""Number of distances that stay in the first-level cache while every match is compared with them."""
HIGHEST = np.finfo(np.float32).max


@dataclass(frozen=True)
class Scores:
    """How well the gallery is ranked; the means are over the queries that have a match."""

    mAP: float  # noqa: N815
    cmc: NDArray[np.float64]
    """(R,): share of queries with a match among the first 1..R."""
    mINP: float  # noqa: N815
    average_precision: NDArray[np.float64]
    """(Q,), nan for a query without a match."""
    inverse_negative_penalty: NDArray[np.float64]
    """(Q,): number of matches over the place of the last one in the ranking, nan for a query without a match."""
    first_match_rank: Integers
    """(Q,): place of the first match in the ranking (from 1), 0 for a query without a match."""
    valid_queries: int
    """Queries that have a match in the gallery."""


def evaluate(
    distance: Floats,
    *,
    query_person: Integers,
    query_camera: Integers,
    gallery_person: Integers,
    gallery_camera: Integers,
    max_rank: int,
) -> Scores:
    """distance (Q, G), persons and cameras (Q,) and (G,) -> Scores, with a CMC up to rank `max_rank`.

    Average precision is the mean, over a query's matches, of the precision at the match's place, with no
    interpolation (Zheng et al., ICCV 2015); mINP is that of Ye et al., TPAMI 2021, arXiv:2001.04193, sec. 4.2. A
    query without a match from another camera counts in none of the means. Raises DatasetError if no query has
    one, ValueError if a distance is not finite.
    """
    protocol = market_protocol(
        query_person=query_person,
        query_camera=query_camera,
        gallery_person=gallery_person,
        gallery_camera=gallery_camera,
    )
    scorer = Scorer(protocol, max_rank=max_rank)
    scorer.add(0, distance)
    return scorer.scores()


class PerQuery(NamedTuple):
    """The results of each query, (Q,) arrays that a kernel fills in."""

    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_match_rank: Integers
    scored: NDArray[np.bool_]
    """False if a distance is not finite, or if the query has not been added yet."""

    @classmethod
    def none_yet(cls, queries: int) -> "PerQuery":
        """Results that are still to be filled in."""
        nan = np.full(queries, np.nan)
        return cls(nan, nan.copy(), np.zeros(queries, np.int64), np.zeros(queries, np.bool_))

    def scores(self, protocol: Protocol, *, max_rank: int) -> Scores:
        """The scores of all queries. Raises DatasetError if none has a match, ValueError if one was never added."""
        if not self.scored.all():
            raise ValueError(f"{(~self.scored).sum()} of {len(self.scored)} queries have no distances yet")
        valid = self.first_match_rank > 0
        if not valid.any():
            raise DatasetError(why_no_match(protocol))
        beyond = max_rank + 1
        first_matches = np.bincount(np.minimum(self.first_match_rank[valid], beyond), minlength=beyond + 1)
        return Scores(
            mAP=float(self.average_precision[valid].mean()),
            cmc=first_matches[1:beyond].cumsum() / valid.sum(),
            mINP=float(self.inverse_negative_penalty[valid].mean()),
            average_precision=self.average_precision,
            inverse_negative_penalty=self.inverse_negative_penalty,
            first_match_rank=self.first_match_rank,
            valid_queries=int(valid.sum()),
        )

    def require_finite(self, first_query: int) -> None:
        """Raises ValueError if one of these queries, the first of which is `first_query`, is not scored."""
        bad = np.flatnonzero(~self.scored)
        if bad.size:
            raise ValueError(
                f"distance: {bad.size} queries have one that is not finite; first: query {first_query + bad[0]}"
            )


class Scorer:
    """`evaluate` for distances that come in blocks of queries, in any order."""

    def __init__(self, protocol: Protocol, *, max_rank: int) -> None:
        self._protocol, self._max_rank = protocol, max_rank
        self._per_query = PerQuery.none_yet(len(protocol.query_person))

    def add(self, first_query: int, distance: Floats) -> None:
        """Scores the queries from `first_query` on by distance (rows, G)."""
        distance, protocol = self._protocol.block(distance, first_query)
        part = slice(first_query, first_query + len(distance))
        per_query = PerQuery(*(values[part] for values in self._per_query))  # type: ignore[arg-type]
        with worker_pool() as pool:
            run_all(
                pool, lambda rows: _score_rows(*rows, distance, protocol, per_query), shares(len(distance), most=ROWS)
            )
        per_query.require_finite(first_query)

    def scores(self) -> Scores:
        """The scores of all queries. Raises DatasetError if none has a match, ValueError if one was never added."""
        return self._per_query.scores(self._protocol, max_rank=self._max_rank)


@compiled()
def _nearer(distance: Floats, value: np.float32) -> int:
    count = np.int32(0)
    for at in range(len(distance)):
        count += np.int32(distance[at] < value)
    return count  # type: ignore[return-value]


@compiled()
def _as_near(distance: Floats, value: np.float32) -> int:
    count = np.int32(0)
    for at in range(len(distance)):
        count += np.int32(distance[at] <= value)
    return count  # type: ignore[return-value]


@compiled()
def places_of(row: Floats, matches: Integers, ranks: Integers) -> None:
    """Writes the places of row[matches] in the ranking of row, rising, to ranks.

    A place is 1 plus the number of images that are nearer, or as near with a lower index.
    """
    for at in range(len(ranks)):
        ranks[at] = 1
    for begin in range(0, len(row), BLOCK):
        end = min(begin + BLOCK, len(row))
        for at in range(len(ranks)):
            value, middle = row[matches[at]], min(max(matches[at], begin), end)
            ranks[at] += _as_near(row[begin:middle], value) + _nearer(row[middle:end], value)
    for at in range(1, len(ranks)):
        rank, place = ranks[at], at
        while place > 0 and ranks[place - 1] > rank:
            ranks[place] = ranks[place - 1]
            place -= 1
        ranks[place] = rank


@compiled()
def _score_rows(first: int, end: int, distance: Floats, protocol: Protocol, per_query: PerQuery) -> None:
    gallery = distance.shape[1]
    row, matches, ranks = np.empty(gallery, np.float32), np.empty(gallery, np.int64), np.empty(gallery, np.int64)
    for query in range(first, end):
        for index in range(gallery):
            row[index] = distance[query, index]
        per_query.scored[query] = _as_near(row, HIGHEST) - _nearer(row, -HIGHEST) == gallery
        for at in range(len(protocol.junk)):
            row[protocol.junk[at]] = np.inf
        found = 0
        for at in range(protocol.begin[query], protocol.end[query]):
            index = protocol.by_person[at]
            if protocol.gallery_camera[index] == protocol.query_camera[query]:
                row[index] = np.inf
            else:
                matches[found] = index
                found += 1
        if found == 0:
            continue
        places_of(row, matches[:found], ranks[:found])
        precision_sum = 0.0
        for at in range(found):
            precision_sum += (at + 1) / ranks[at]
        per_query.average_precision[query] = precision_sum / found
        per_query.inverse_negative_penalty[query] = found / ranks[found - 1]
        per_query.first_match_rank[query] = ranks[0]
