"""Queries that show what a ranking looks like, with their nearest gallery images.

Shapes: Q queries.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reid.embeddings import Embeddings

if TYPE_CHECKING:
    from reid.retrieval.metrics import Scores
    from reid.retrieval.nearest import Nearest

BEST, HARDEST, RANDOM = "best", "hardest", "random"


@dataclass(frozen=True)
class Match:
    """One gallery image at its place in the ranking of a query."""

    path: str
    person: int
    camera: int
    rank: int
    """Place in the ranking, from 1."""
    distance: float
    correct: bool
    """Whether it shows the query's person."""


@dataclass(frozen=True)
class MatchRow:
    """A query and the top of its ranking."""

    path: str
    person: int
    camera: int
    reason: str
    """Why the query is shown: best, hardest or random."""
    average_precision: float
    first_match: Match
    """The first right image, at whatever place of the ranking."""
    matches: tuple[Match, ...]
    """The places 1 to R of the ranking."""


def choose_queries(
    average_precision: NDArray[np.floating], *, count: int, rng: np.random.Generator
) -> list[tuple[int, str]]:
    """At most `count` pairs (query, reason), each query once; average_precision (Q,) is nan if a query has no match.

    A third is best, a third random, the rest hardest: best first, hardest last. Chance decides among equal queries.
    """
    valid = np.flatnonzero(np.isfinite(average_precision))
    count = min(count, len(valid))
    third = count // 3
    shuffled = rng.permutation(valid)
    by_precision = shuffled[np.argsort(average_precision[shuffled], kind="stable")]
    hardest, best = by_precision[: count - 2 * third], by_precision[len(by_precision) - third :]
    left = by_precision[count - 2 * third : len(by_precision) - third]
    drawn = rng.choice(left, size=third, replace=False)
    drawn = drawn[np.argsort(-average_precision[drawn], kind="stable")]
    reasons = [(best[::-1], BEST), (drawn, RANDOM), (hardest[::-1], HARDEST)]
    return [(int(query), reason) for queries, reason in reasons for query in queries]


def hardest_queries(average_precision: NDArray[np.floating], *, count: int) -> list[tuple[int, str]]:
    """The `count` queries of lowest average precision (Q,), lowest first; ties by index."""
    valid = np.flatnonzero(np.isfinite(average_precision))
    order = valid[np.argsort(average_precision[valid], kind="stable")]
    return [(int(query), HARDEST) for query in order[:count]]


def match_rows(
    chosen: Sequence[tuple[int, str]],
    nearest: "Nearest",
    scores: "Scores",
    *,
    queries: Embeddings,
    gallery: Embeddings,
    ranks: int,
) -> list[MatchRow]:
    """The rows of the chosen pairs (query, reason), each with the first `ranks` places that `nearest` holds.

    Every chosen query must have a match.
    """
    return [
        _match_row(query, reason, nearest, scores, queries=queries, gallery=gallery, ranks=ranks)
        for query, reason in chosen
    ]


def _match_row(
    query: int,
    reason: str,
    nearest: "Nearest",
    scores: "Scores",
    *,
    queries: Embeddings,
    gallery: Embeddings,
    ranks: int,
) -> MatchRow:
    person = int(queries.person[query])

    def match(image: int, rank: int, distance: float) -> Match:
        other, camera = int(gallery.person[image]), int(gallery.camera[image])
        return Match(gallery.paths[image], other, camera, rank, float(distance), other == person)

    top = zip(nearest.image[query, :ranks].tolist(), nearest.distance[query], strict=False)
    return MatchRow(
        path=queries.paths[query],
        person=person,
        camera=int(queries.camera[query]),
        reason=reason,
        average_precision=float(scores.average_precision[query]),
        first_match=match(
            int(nearest.first_match[query]),
            int(scores.first_match_rank[query]),
            nearest.first_match_distance[query],
        ),
        matches=tuple(match(image, rank, distance) for rank, (image, distance) in enumerate(top, 1) if image >= 0),
    )
