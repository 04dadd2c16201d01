"""What a ranking looks like for single queries: which queries to show, and their nearest gallery images.

Shapes: Q queries, G gallery images, R ranks shown. Gallery images that the metric ignores for a query (same person and
same camera; junk) are dropped here too, so that a shown rank is the rank that was counted.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.embeddings import Embeddings

BEST, HARDEST, RANDOM = "best", "hardest", "random"


@dataclass(frozen=True)
class Match:
    """One gallery image at one rank of a query."""

    path: str
    person: int
    camera: int
    rank: int
    """From 1."""
    distance: float
    correct: bool
    """Same person as the query."""


@dataclass(frozen=True)
class MatchRow:
    """A query and the top of its ranking."""

    path: str
    person: int
    camera: int
    reason: str
    """Why it is shown: best, hardest or random."""
    average_precision: float
    first_match: Match
    """The first right image, wherever it ranks."""
    matches: tuple[Match, ...]
    """Ranks 1 to R."""


def choose_queries(
    average_precision: NDArray[np.floating], *, count: int, rng: np.random.Generator
) -> list[tuple[int, str]]:
    """average_precision (Q,), nan where nothing can match -> at most `count` (query, reason), each query once.

    A third best, a third random, the rest hardest: best first, hardest last. Of equal queries the lot decides.
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


def counted(query: int, queries: Embeddings, gallery: Embeddings) -> NDArray[np.bool_]:
    """(G,) which gallery images the metric counts for a query: not junk, not the same person in the same camera."""
    same = (gallery.person == queries.person[query]) & (gallery.camera == queries.camera[query])
    mask: NDArray[np.bool_] = ~same & (gallery.person != -1)
    return mask


def match_row(
    query: int,
    distance: NDArray[np.float32],
    *,
    reason: str,
    average_precision: float,
    queries: Embeddings,
    gallery: Embeddings,
    ranks: int,
) -> MatchRow:
    """distance (G,) of one query that has a match -> its row; equal distances rank by index, as in the metric."""
    shown = np.flatnonzero(counted(query, queries, gallery))
    order = shown[np.argsort(distance[shown], kind="stable")]
    right = gallery.person[order] == queries.person[query]
    first = int(np.argmax(right))

    def match(rank: int) -> Match:
        image = int(order[rank - 1])
        person, camera = int(gallery.person[image]), int(gallery.camera[image])
        return Match(gallery.paths[image], person, camera, rank, float(distance[image]), bool(right[rank - 1]))

    return MatchRow(
        path=queries.paths[query],
        person=int(queries.person[query]),
        camera=int(queries.camera[query]),
        reason=reason,
        average_precision=average_precision,
        first_match=match(first + 1),
        matches=tuple(match(rank) for rank in range(1, min(ranks, len(order)) + 1)),
    )


def rows_of(
    chosen: Sequence[tuple[int, str]],
    distance: NDArray[np.float32],
    average_precision: NDArray[np.floating],
    *,
    queries: Embeddings,
    gallery: Embeddings,
    ranks: int,
) -> list[MatchRow]:
    """The rows of chosen queries, of distance (Q, G) and average_precision (Q,)."""
    return [
        match_row(
            query,
            distance[query],
            reason=reason,
            average_precision=float(average_precision[query]),
            queries=queries,
            gallery=gallery,
            ranks=ranks,
        )
        for query, reason in chosen
    ]
