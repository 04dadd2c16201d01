"""Exact nearest neighbours of every vector among all, without an (N, N) array. N vectors, D values each, K neighbours.

Similarities are computed in float32 tiles of the upper triangle; a tile is read once, for the best of its rows and of
its columns. Float32 cannot tell near-ties apart. So if two candidates are closer than its rounding, their distances are
computed again in float64, and equal ones are ordered by index. The neighbours are therefore those of a stable sort of
exact distances, whatever the BLAS, the tiles or the number of threads, as long as no product is off by more than
`near_tie_margin` allows for. That margin is more than was ever measured, but it is not a proven bound.

tensors/knn.py does the same on the device of a tensor.
"""

import logging
import math
import queue
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.retrieval.candidates import Candidates, Neighbours, order_exactly, scan, scan_diagonal, search_rows
from reid.retrieval.parallel import in_order, row_ranges, thread_count, worker_pool

logger = logging.getLogger(__name__)

TILE = 1024
"""Rows and columns of a tile, which stays in the cache between the product and the scan."""
SPARE = 7
"""Candidates kept beyond K, so that near-ties at the K-th place seldom cost a search of the whole row."""
LENGTH_TOLERANCE = 5e-7
ROUNDING = 5 * 2.0**-24
"""How far a float32 sum of products is off, at most, over the square root of their number. Random values stay below a
fifth of it; vectors of few distinct values, whose errors have one sign, reached 3.1 of the 5 with BLAS's kernels for
AVX (256 values) and 4.7 with those for SSE (512 values)."""
AGAIN_BYTES = 32 << 20
"""Bytes of similarities of vectors that are searched again, for each thread."""

TileHook = Callable[[int, int, NDArray[np.float32]], None]


def nearest_neighbours(vectors: NDArray[np.float32], *, count: int, on_tile: TileHook | None = None) -> Neighbours:
    """vectors (N, D) of length 1 -> the `count` nearest of each among all N, or all of them if count > N.

    on_tile(first row, first column, similarity tile) is called for every tile of the upper triangle, from several
    threads at once. Raises ValueError if a vector's length is not 1.
    """
    check_lengths(vectors)
    vectors = np.ascontiguousarray(vectors, np.float32)
    total = len(vectors)
    best = Candidates.none(total, min(count + SPARE, total))
    strips = row_ranges(total, size=TILE)
    with worker_pool() as pool, Progress("nearest neighbours", total * (total + 1) // 2, "pairs") as progress:
        done = 0
        for pairs in in_order(pool, _tile_worker(vectors, best, strips, on_tile), _tile_order(len(strips))):
            done += pairs
            progress.update(done)
    with worker_pool() as pool:
        return _settle(pool, vectors, best, count=min(count, total))


def check_lengths(vectors: NDArray[np.float32]) -> None:
    """Raises ValueError unless every row of vectors (N, D) has Euclidean length 1."""
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~(np.abs(length - 1) <= LENGTH_TOLERANCE))
    if bad.size:
        raise ValueError(
            f"vectors: {bad.size} of {len(vectors)} do not have length 1; "
            f"first: row {bad[0]}, length {length[bad[0]]:.7g}; l2_normalize them"
        )


def near_tie_margin(width: int) -> float:
    """The difference up to which the order of two float32 similarities of vectors of `width` values is unknown."""
    return 2 * (ROUNDING * (4 + math.sqrt(width)) + LENGTH_TOLERANCE)


def _tile_order(strips: int) -> Iterator[tuple[int, int]]:
    """Every pair of strips once: the diagonal, which sets the bars early, then its parallels.

    Along a parallel few tiles share a strip, so threads seldom wait for each other's locks.
    """
    for offset in range(strips // 2 + 1):
        for strip in range(strips):
            other = (strip + offset) % strips
            if 2 * offset != strips or strip < other:
                yield min(strip, other), max(strip, other)


def _tile_worker(
    vectors: NDArray[np.float32], best: Candidates, strips: list[tuple[int, int]], on_tile: TileHook | None
) -> Callable[[tuple[int, int]], int]:
    """A function of (row strip, column strip) that adds one tile to `best` and returns how many pairs it saw."""
    side = min(TILE, len(vectors))
    buffers: queue.SimpleQueue[NDArray[np.float32]] = queue.SimpleQueue()
    for _ in range(thread_count()):
        buffers.put(np.empty(side * side, np.float32))
    locks = [threading.Lock() for _ in strips]

    def work(tile: tuple[int, int]) -> int:
        (top, bottom), (left, right) = strips[tile[0]], strips[tile[1]]
        buffer = buffers.get()
        try:
            similarity = buffer[: (bottom - top) * (right - left)].reshape(bottom - top, right - left)
            np.dot(vectors[top:bottom], vectors[left:right].T, out=similarity)
            if tile[0] == tile[1]:
                with locks[tile[0]]:
                    scan_diagonal(similarity, best.rows(top, bottom), top)
            else:
                with locks[tile[0]], locks[tile[1]]:
                    scan(similarity, best.rows(top, bottom), best.rows(left, right), top, left)
            if on_tile is not None:
                on_tile(top, left, similarity)
        finally:
            buffers.put(buffer)
        return similarity.size if tile[0] != tile[1] else len(similarity) * (len(similarity) + 1) // 2

    return work


def _settle(pool: ThreadPoolExecutor, vectors: NDArray[np.float32], best: Candidates, *, count: int) -> Neighbours:
    """The `count` best candidates in their exact order; a row whose candidates may not suffice is searched again."""
    found = Neighbours.empty(len(vectors), count)
    margin = near_tie_margin(vectors.shape[1])

    def order(rows: tuple[int, int]) -> int:
        order_exactly(vectors, best.rows(*rows), rows[0], margin, found.rows(*rows))
        return rows[1]

    with Progress("exact order", len(vectors), "vectors") as progress:
        for end in in_order(pool, order, row_ranges(len(vectors), size=TILE)):
            progress.update(end)
    crowded = np.flatnonzero(found.crowded)
    if crowded.size:
        _search_again(pool, vectors, crowded, margin, found)
    return found


def _search_again(
    pool: ThreadPoolExecutor, vectors: NDArray[np.float32], rows: NDArray[np.int64], margin: float, found: Neighbours
) -> None:
    """Compares the vectors at `rows` (n,) with all others. No forecast includes it, as it depends on the data."""
    logger.info("%d of %d vectors have near-ties beyond float32: searched again", rows.size, len(vectors))
    size = min(max(1, AGAIN_BYTES // (4 * len(vectors))), 64)

    def search(part: NDArray[np.int64]) -> int:
        search_rows(vectors, part, vectors[part] @ vectors.T, margin, found)
        return part.size

    with Progress("near-ties", rows.size, "vectors") as progress:
        done = 0
        for searched in in_order(pool, search, [rows[first:end] for first, end in row_ranges(rows.size, size=size)]):
            done += searched
            progress.update(done)
