"""Re-ranking with k-reciprocal encoding in bounded memory. Zhong et al., CVPR 2017, arXiv:1701.08398.

Q queries, G gallery images, N = Q + G, D values a vector. No (N, N) array is ever held.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress, duration
from reid.retrieval.copies import Copies
from reid.retrieval.distance import query_blocks
from reid.retrieval.encoding import encode, expand
from reid.retrieval.jaccard import Encoded, blend, invert
from reid.retrieval.knn import AGAIN_BYTES, SPARE, TILE, TileHook, nearest_neighbours
from reid.retrieval.parallel import run_all, shares, thread_count, worker_pool

logger = logging.getLogger(__name__)

ROWS = 64
"""Largest number of queries that a thread works on at a time."""
KEPT_BYTES = 512 << 20
"""If the cosines between queries and gallery take at most so many bytes they are kept, else computed twice."""
SCAN_COST = 60
"""Multiplications that take as long as the scan of one similarity; fitted to galleries of 30,000 to 300,000, 256-d."""
CELL_COST = 1200
"""Multiplications that take as long as blending and scoring one distance; fitted to the same galleries."""


@dataclass(frozen=True)
class Forecast:
    """What a re-ranking will cost on this machine."""

    memory_bytes: int
    """The most that is used, with the vectors of length 1, without the embeddings that they were computed from."""
    seconds: float
    """An estimate."""
    product_seconds: float
    """The part for the matrix product alone: no exact search can be faster."""


def both_rows(
    vectors: NDArray[np.float32], *, queries: int, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """vectors (N, D) of length 1, the first Q = `queries` of them queries -> plain and final distances, in blocks.

    A block is (first query, (rows, G), (rows, G)), float32: squared Euclidean distances, and those of eq. 12, that is
    lambda_value * original + (1 - lambda_value) * Jaccard distance. The next block is written over it.

    As in the authors' code the original distance is squared Euclidean, over the greatest from the same query to any of
    the N images, and neighbours are sought among all N. Equally near ones are ordered by index, queries before the
    gallery; gallery images of equal vectors and equal neighbourhoods are equally distant, to the bit. If all N
    images are one point the original distance counts as 0.

    The error is within 1e-6 of the formula in float64 if embeddings are spread out. The original distance is a float32
    product over that greatest distance, so the error grows as one over it: embeddings that nearly collapse have fewer
    right digits. Raises ValueError if a vector is not of length 1 or a parameter is out of range.
    """
    check_arguments(vectors.shape, queries=queries, k1=k1, k2=k2, lambda_value=lambda_value)
    vectors = np.ascontiguousarray(vectors, np.float32)
    query, gallery = vectors[:queries], vectors[queries:]
    _announce(queries, len(gallery), width=vectors.shape[1], k1=k1, k2=k2)
    kept = np.empty((queries, len(gallery)), np.float32) if _fits(queries, len(gallery)) else None
    copies = Copies.among(gallery)
    encoded = _encode(vectors, queries, copies, k1=k1, k2=k2, on_tile=None if kept is None else _keeper(kept))
    blocks = query_blocks(queries, len(gallery))
    plain = np.empty((blocks[0][1], len(gallery)), np.float32)
    block = np.empty_like(plain) if kept is None else plain[:0]
    with Progress("re-ranked distances", queries, "queries") as progress:
        for first, end in blocks:
            distance = block[: end - first] if kept is None else kept[first:end]
            if kept is None:
                np.dot(query[first:end], gallery.T, out=distance)
            copies.equalise(distance)
            squared = plain[: end - first]
            _blend(encoded, first, lambda_value, distance, squared)
            yield first, squared, distance
            progress.update(end)


def _fits(queries: int, gallery: int) -> bool:
    return 4 * queries * gallery <= KEPT_BYTES


def _keeper(kept: NDArray[np.float32]) -> TileHook:
    """A hook that copies the part of a tile that lies between queries and gallery to kept (Q, G)."""
    queries = len(kept)

    def keep(top: int, left: int, cosine: NDArray[np.float32]) -> None:
        rows, skip = min(len(cosine), queries - top), max(queries - left, 0)
        if rows > 0 and skip < cosine.shape[1]:
            begin = left + skip - queries
            kept[top : top + rows, begin : begin + cosine.shape[1] - skip] = cosine[:rows, skip:]

    return keep


def forecast(queries: int, gallery: int, *, width: int, k1: int, k2: int) -> Forecast:
    """The memory and time that `both_rows` of `queries` and `gallery` vectors of `width` values will take.

    The size of the encodings depends on the data: this counts k1 + 1 entries a row before query
    expansion and k2 times as many after it, which real sets stay below. The time is that of the matrix product at the
    rate measured now, plus SCAN_COST multiplications for each pair and CELL_COST for each of the (Q, G) distances,
    scoring included. Near-ties beyond float32, which are searched again, are not counted: they are not known before.
    """
    total = queries + gallery
    neighbours = (min(k1 + 1 + SPARE, total) + min(max(k1, k2) + 1, total)) * 8 * total
    encodings = min(k1 + 1, total) * 8 * total * (1 + 2 * k2)
    block = query_blocks(queries, gallery)[0][1] * gallery
    distances = block + (queries * gallery if _fits(queries, gallery) else block)
    buffers = thread_count() * (4 * TILE * TILE + min(AGAIN_BYTES, 4 * total * total))
    memory = 4 * total * width + neighbours + encodings + 4 * distances + buffers
    rate = _multiplications_per_second(width)
    pairs = total * (total + 1) / 2
    seconds = (pairs * (width + SCAN_COST) + CELL_COST * queries * gallery) / rate
    return Forecast(memory, seconds, pairs * width / rate)


def _multiplications_per_second(width: int) -> float:
    """The rate of matrix products on all threads: the best of several, as another process may slow one down."""
    some = np.ones((TILE // 2, width), np.float32)
    taken = []
    with worker_pool():
        for _ in range(6):
            began = time.perf_counter()
            np.dot(some, some[::-1].T)
            taken.append(time.perf_counter() - began)
    return thread_count() * some.size * len(some) / min(taken)


def _announce(queries: int, gallery: int, *, width: int, k1: int, k2: int) -> None:
    cost = forecast(queries, gallery, width=width, k1=k1, k2=k2)
    logger.info(
        "re-ranking %d queries against %d gallery images on the CPU: about %s, "
        "at most %.1f GB of memory in addition to the embeddings",
        queries, gallery, duration(cost.seconds), cost.memory_bytes / 1e9,
    )  # fmt: skip


def check_arguments(shape: Sequence[int], *, queries: int, k1: int, k2: int, lambda_value: float) -> None:
    """Raises ValueError unless the shape is (N, D), none empty, 0 < queries < N, and the parameters are in range."""
    shape = tuple(shape)
    if len(shape) != 2 or not shape[1] or not 0 < queries < shape[0]:
        raise ValueError(
            f"re-ranking: vectors {shape}, {queries} of them queries; want (N, D), at least one query and one other"
        )
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(
            f"re-ranking: k1 {k1}, k2 {k2}, lambda_value {lambda_value}; want k1 >= 1, k2 >= 1, 0 <= lambda_value <= 1"
        )


def _encode(
    vectors: NDArray[np.float32], queries: int, copies: Copies, *, k1: int, k2: int, on_tile: TileHook | None
) -> Encoded:
    neighbours = nearest_neighbours(vectors, count=max(k1 + 1, k2), on_tile=on_tile)
    for values in (neighbours.nearest, neighbours.distance, neighbours.farthest):
        values[queries + copies.later] = values[queries + copies.first]  # type: ignore[index]
    with worker_pool() as pool:
        encoding = expand(pool, encode(pool, vectors, neighbours, k1=k1), neighbours.nearest, k2=k2)
    return Encoded(encoding.head(queries), invert(encoding, queries), neighbours.farthest[:queries])


def _blend(
    encoded: Encoded, first_query: int, lambda_value: float, distance: NDArray[np.float32], plain: NDArray[np.float32]
) -> None:
    """`blend` for the rows of distance and plain (rows, G), some at a time on every thread."""

    def work(rows: tuple[int, int]) -> None:
        blend(encoded, first_query + rows[0], lambda_value, distance[slice(*rows)], plain[slice(*rows)])

    with worker_pool() as pool:
        run_all(pool, work, shares(len(distance), most=ROWS))
