"""Re-ranking with k-reciprocal encoding in bounded memory. Zhong et al., CVPR 2017, arXiv:1701.08398.

Q queries, G gallery images, N = Q + G, D values a vector. No (N, N) array is ever held.
"""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.progress import Progress, duration
from reid.retrieval.distance import query_blocks, squared_from_cosine
from reid.retrieval.jaccard import Encoded, blend, encode, expand, invert
from reid.retrieval.knn import SPARE, TILE, TileHook, nearest_neighbours
from reid.retrieval.parallel import row_ranges, run_in_order, thread_count, worker_pool

logger = logging.getLogger(__name__)

ROWS = 64
"""Queries a thread takes at a time."""
CELL_COST = 3000
"""Multiplications that take as long as blending and scoring one distance; fitted to galleries of 30,000 to 300,000."""


@dataclass(frozen=True)
class Forecast:
    """What a re-ranking will cost: its own memory, beside the caller's embeddings, and a rough time on this machine."""

    memory_bytes: int
    seconds: float
    product_seconds: float
    """Of these, for the matrix product alone: no exact search can be faster."""


def rerank(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> NDArray[np.float32]:
    """query (Q, D), gallery (G, D), rows of length 1 -> (Q, G) float32, the final distance of eq. 12.

    That is lambda_value * original + (1 - lambda_value) * Jaccard distance. As in the authors' code the original one
    is squared Euclidean, over the greatest from the same query to any of the N images, and neighbours are sought among
    all N. Equally near ones are ordered by index, queries before the gallery. Where all N images are one point the
    original distance counts as 0. Raises ValueError on vectors not of length 1 and on parameters out of range.
    """
    query, gallery = _checked(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    _announce(query, gallery, k1=k1, k2=k2, streamed=False)
    distance = np.empty((len(query), len(gallery)), np.float32)

    def keep(top: int, left: int, cosine: NDArray[np.float32]) -> None:
        """The part of a tile that lies between queries and gallery."""
        rows, skip = min(len(cosine), len(query) - top), max(len(query) - left, 0)
        if rows > 0 and skip < cosine.shape[1]:
            begin = left + skip - len(query)
            distance[top : top + rows, begin : begin + cosine.shape[1] - skip] = cosine[:rows, skip:]

    encoded = _encode(query, gallery, k1=k1, k2=k2, on_tile=keep)
    _blend(encoded, 0, lambda_value, distance)
    return distance


def rerank_rows(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `rerank` in blocks: (first query, (rows, G) float32), for galleries whose (Q, G) does not fit.

    The next block is written over the last one.
    """
    for first, _, distance in both_rows(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value):
        yield first, distance


def both_rows(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, NDArray[np.float32], NDArray[np.float32]]]:
    """The rows of `euclidean_squared` and those of `rerank` in blocks, of one product.

    A block is (first query, (rows, G), (rows, G)), float32; the next one is written over it.
    """
    query, gallery = _checked(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value)
    _announce(query, gallery, k1=k1, k2=k2, streamed=True)
    encoded = _encode(query, gallery, k1=k1, k2=k2)
    blocks = query_blocks(len(query), len(gallery))
    original, final = (np.empty((blocks[0][1], len(gallery)), np.float32) for _ in range(2))
    with Progress("re-ranked distances", len(query), "queries") as progress:
        for first, end in blocks:
            distance = np.dot(query[first:end], gallery.T, out=final[: end - first])
            squared = squared_from_cosine(distance, out=original[: end - first])
            _blend(encoded, first, lambda_value, distance)
            yield first, squared, distance
            progress.update(end)


def forecast(queries: int, gallery: int, *, width: int, k1: int, k2: int, streamed: bool) -> Forecast:
    """What re-ranking `queries` x `gallery` vectors of `width` values will take; `streamed` for `rerank_rows`.

    The size of the encodings depends on the data: k1 + 1 entries a row before query expansion and k2 times that
    after it are reckoned, which real sets stay below. The time is that of the matrix product at the rate measured
    now, and CELL_COST of its multiplications for each of the (Q, G) distances.
    """
    total = queries + gallery
    neighbours = (min(k1 + 1 + SPARE, total) + min(max(k1, k2) + 1, total)) * 8 * total
    encodings = min(k1 + 1, total) * 8 * total * (1 + 2 * k2)
    block = 2 * query_blocks(queries, gallery)[0][1] * gallery if streamed else queries * gallery
    memory = 4 * total * width + neighbours + encodings + 4 * block + thread_count() * 4 * TILE * TILE
    rate = _multiplications_per_second(width)
    product_seconds = total * total / 2 * width / rate
    return Forecast(memory, product_seconds + CELL_COST * queries * gallery / rate, product_seconds)


def _multiplications_per_second(width: int) -> float:
    some = np.ones((TILE // 2, width), np.float32)
    with worker_pool():
        np.dot(some, some[::-1].T)
        began = time.perf_counter()
        np.dot(some, some[::-1].T)
        return thread_count() * some.size * len(some) / (time.perf_counter() - began)


def _announce(query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, streamed: bool) -> None:
    cost = forecast(len(query), len(gallery), width=query.shape[1], k1=k1, k2=k2, streamed=streamed)
    logger.info(
        "re-ranking %d queries against %d gallery images on the CPU: about %s, at most %.1f GB of memory",
        len(query), len(gallery), duration(cost.seconds), cost.memory_bytes / 1e9,
    )  # fmt: skip


def check_arguments(query: Sequence[int], gallery: Sequence[int], *, k1: int, k2: int, lambda_value: float) -> None:
    """Raises ValueError unless the shapes are (Q, D) and (G, D), none empty, and the parameters are in their ranges."""
    query, gallery = tuple(query), tuple(gallery)
    if len(query) != 2 or len(gallery) != 2 or query[1] != gallery[1] or not all(query) or not gallery[0]:
        raise ValueError(f"re-ranking: query {query}, gallery {gallery}; want (Q, D) and (G, D), none empty")
    if k1 < 1 or k2 < 1 or not 0 <= lambda_value <= 1:
        raise ValueError(
            f"re-ranking: k1 {k1}, k2 {k2}, lambda_value {lambda_value}; want k1 >= 1, k2 >= 1, 0 <= lambda_value <= 1"
        )


def _checked(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, lambda_value: float
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """query and gallery as contiguous float32."""
    check_arguments(query.shape, gallery.shape, k1=k1, k2=k2, lambda_value=lambda_value)
    return np.ascontiguousarray(query, np.float32), np.ascontiguousarray(gallery, np.float32)


def _encode(
    query: NDArray[np.float32], gallery: NDArray[np.float32], *, k1: int, k2: int, on_tile: TileHook | None = None
) -> Encoded:
    vectors = np.concatenate([query, gallery])
    neighbours = nearest_neighbours(vectors, count=max(k1 + 1, k2), on_tile=on_tile)
    with worker_pool() as pool:
        encoding = expand(pool, encode(pool, vectors, neighbours, k1=k1), neighbours.nearest, k2=k2)
    return Encoded(encoding.head(len(query)), invert(encoding, len(query)), neighbours.farthest[: len(query)])


def _blend(encoded: Encoded, first_query: int, lambda_value: float, distance: NDArray[np.float32]) -> None:
    """`blend` for the rows of distance (rows, G), some at a time on every thread."""
    with worker_pool() as pool:
        run_in_order(
            pool,
            lambda rows: blend(encoded, first_query + rows[0], lambda_value, distance[slice(*rows)]),
            row_ranges(len(distance), size=ROWS),
        )
