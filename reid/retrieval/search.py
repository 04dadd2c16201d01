"""Exact search: the gallery vectors that are most similar to each query, of a gallery that comes in blocks.

The idea is that of knn.py: float32 products find who may be among the best, and whoever may be is compared again in
float64. Each query has a short list of its best so far, and a bar a little below the last of them; only a vector whose
float32 similarity is above the bar is compared again. So the result is that of a stable sort of exact distances,
whatever the blocks, the BLAS or the number of threads, as long as no product is off by more than `near_tie_margin`
allows for; and no block has to be seen twice.

Q queries, n gallery vectors of a block, D values each, K hits a query. Similarity is the cosine.
"""

import queue
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError
from reid.retrieval.candidates import CHUNK, squared_distance
from reid.retrieval.knn import near_tie_margin
from reid.retrieval.parallel import SUM_IN_ANY_ORDER, compiled, in_order, row_ranges, thread_count, worker_pool

Floats = NDArray[np.float32]

TILE = 2048
"""Gallery vectors that are compared at a time."""
STRIP = 256
"""Queries that are compared at a time: the product of a strip and a tile stays in the cache."""


class Hits(NamedTuple):
    """The K most similar gallery vectors of each query."""

    row: NDArray[np.int64]
    """(Q, K): the most similar first, equally similar ones by row; -1 beyond the last."""
    similarity: NDArray[np.float64]
    """(Q, K): the cosine; -inf beyond the last."""


class _Best(NamedTuple):
    """The lists of a range of q queries."""

    distance: NDArray[np.float64]
    """(q, K), squared Euclidean, rising; inf beyond the last."""
    row: NDArray[np.int64]
    bar: Floats
    """(q,): only a vector of a higher float32 similarity may be among the K best."""

    def part(self, first: int, end: int) -> "_Best":
        return _Best(*(array[first:end] for array in self))  # type: ignore[arg-type]


def search(
    queries: Floats,
    gallery: Iterable[NDArray[np.floating]],
    *,
    count: int,
    seen: Callable[[int], None] = lambda rows: None,
    place: str = "gallery",
) -> Hits:
    """queries (Q, D) of length 1, blocks (n, D) float32 or float16 of any length -> the `count` best of each query.

    Memory holds a few blocks for each thread. seen(number of gallery vectors so far) reports progress. Raises
    ArtifactError, which calls the gallery `place`, if one of its vectors is not finite or all zeros.
    """
    queries = np.ascontiguousarray(queries, np.float32)
    best = _Best(
        np.full((len(queries), count), np.inf),
        np.full((len(queries), count), -1, np.int64),
        np.full(len(queries), -np.inf, np.float32),
    )
    with worker_pool() as pool:
        for rows in in_order(pool, _worker(queries, best, place), _tiles(gallery)):
            seen(rows)
    return Hits(best.row, np.where(best.row < 0, -np.inf, 1 - best.distance / 2))


def _tiles(gallery: Iterable[NDArray[np.floating]]) -> Iterator[tuple[int, NDArray[np.floating]]]:
    """The row of its first vector and the vectors, for each tile of the blocks."""
    before = 0
    for block in gallery:
        for first, end in row_ranges(len(block), size=TILE):
            yield before + first, block[first:end]
        before += len(block)


def _worker(queries: Floats, best: _Best, place: str) -> Callable[[tuple[int, NDArray[np.floating]]], int]:
    """A function of a tile that adds it to `best` and returns the row after it."""
    width, margin = queries.shape[1], np.float32(near_tie_margin(queries.shape[1]))
    strips = row_ranges(len(queries), size=STRIP)
    locks = [threading.Lock() for _ in strips]
    buffers: queue.SimpleQueue[tuple[Floats, Floats]] = queue.SimpleQueue()
    for _ in range(thread_count()):
        products = np.empty(min(STRIP, len(queries)) * TILE, np.float32)
        buffers.put((np.empty((TILE, width), np.float32), products))

    def work(tile: tuple[int, NDArray[np.floating]]) -> int:
        first_row, vectors = tile
        buffer, products = buffers.get()
        try:
            unit = buffer[: len(vectors)]
            bad = scale_to_one(np.ascontiguousarray(vectors, np.float32), unit)
            if bad >= 0:
                found = "all zeros" if np.isfinite(vectors[bad]).all() else "not finite"
                raise ArtifactError(
                    f"{place}: row {first_row + bad + 1} has no direction\n"
                    f"  found: {found}\n  want: finite values, not all zeros"
                )
            for (first, end), lock in zip(strips, locks):
                similarity = products[: (end - first) * len(unit)].reshape(end - first, len(unit))
                np.dot(queries[first:end], unit.T, out=similarity)
                with lock:
                    keep_best(similarity, queries[first:end], unit, first_row, margin, best.part(first, end))
        finally:
            buffers.put((buffer, products))
        return first_row + len(vectors)

    return work


@compiled(SUM_IN_ANY_ORDER)
def scale_to_one(vectors: Floats, unit: Floats) -> int:
    """Writes the vectors (n, D), scaled to length 1, to `unit`; returns the first that has no direction, else -1."""
    for row in range(vectors.shape[0]):
        total = 0.0
        for at in range(vectors.shape[1]):
            total += np.float64(vectors[row, at]) * np.float64(vectors[row, at])
        if not (total > 0.0 and total < np.inf):
            return row
        factor = 1.0 / np.sqrt(total)
        for at in range(vectors.shape[1]):
            unit[row, at] = vectors[row, at] * factor
    return -1


@compiled()
def _any_above(similarity: Floats, bar: np.float32) -> bool:
    """Whether a chunk holds a candidate; without branches it vectorises."""
    above = np.int32(0)
    for at in range(len(similarity)):
        above |= np.int32(similarity[at] > bar)
    return bool(above)


@compiled()
def keep_best(  # noqa: PLR0917 - numba takes no keyword arguments
    similarity: Floats, queries: Floats, gallery: Floats, first_row: int, margin: np.float32, best: _Best
) -> None:
    """Adds gallery (n, D), whose similarity (q, n) to the queries (q, D) is known in float32, to their lists."""
    last = best.row.shape[1] - 1
    for query in range(similarity.shape[0]):
        for begin in range(0, similarity.shape[1], CHUNK):
            chunk = similarity[query, begin : begin + CHUNK]
            if not _any_above(chunk, best.bar[query]):
                continue
            for at in range(len(chunk)):
                if not chunk[at] > best.bar[query]:
                    continue
                row = first_row + begin + at
                distance = squared_distance(queries[query], gallery[begin + at])
                place = last + 1
                while place > 0 and (
                    best.distance[query, place - 1] > distance
                    or (best.distance[query, place - 1] == distance and best.row[query, place - 1] > row)
                ):
                    place -= 1
                if place > last:
                    continue
                for other in range(last, place, -1):
                    best.distance[query, other] = best.distance[query, other - 1]
                    best.row[query, other] = best.row[query, other - 1]
                best.distance[query, place], best.row[query, place] = distance, row
                if best.row[query, last] >= 0:
                    best.bar[query] = np.float32(1.0 - best.distance[query, last] / 2) - margin
