"""Distances between embeddings. Q queries, G gallery images, D values a vector."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError

BLOCK_BYTES = 64 << 20
"""A streamed block of distances is about this big."""


def l2_normalize(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """vectors (N, D) -> (N, D) float32, every row scaled to Euclidean length 1.

    Raises ArtifactError where a row is not finite or all zeros: such an embedding has no direction, and no distance
    means anything.
    """
    length = np.sqrt(np.einsum("nd,nd->n", vectors, vectors, dtype=np.float64))
    bad = np.flatnonzero(~(np.isfinite(length) & (length > 0)))
    if bad.size:
        found = "not finite" if not np.isfinite(length[bad[0]]) else "all zeros"
        raise ArtifactError(
            f"embeddings: {bad.size} of {len(vectors)} have no direction\n"
            f"  first: row {bad[0]}, {found}\n"
            f"  want:  finite values, not all zeros; the network may have diverged"
        )
    return np.ascontiguousarray(vectors / length[:, None], dtype=np.float32)


def euclidean_squared(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float32]:
    """query (Q, D), gallery (G, D), rows of length 1 -> (Q, G) float32: squared Euclidean, 2 - 2 cos, in 0..4."""
    distance = np.empty((len(query), len(gallery)), np.float32)
    for first, end in query_blocks(len(query), len(gallery)):
        _distance_block(query[first:end], gallery, distance[first:end])
    return distance


def distance_rows(
    query: NDArray[np.float32], gallery: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `euclidean_squared` in blocks: (first query, (rows, G) float32), so that no (Q, G) matrix is held."""
    for first, end in query_blocks(len(query), len(gallery)):
        yield first, _distance_block(query[first:end], gallery, np.empty((end - first, len(gallery)), np.float32))


def query_blocks(queries: int, gallery: int) -> list[tuple[int, int]]:
    """[(first, end), ...) that cover the queries, with about BLOCK_BYTES of distances each."""
    rows = max(1, BLOCK_BYTES // (4 * max(gallery, 1)))
    return [(first, min(first + rows, queries)) for first in range(0, queries, rows)]


def _distance_block(
    query: NDArray[np.float32], gallery: NDArray[np.float32], distance: NDArray[np.float32]
) -> NDArray[np.float32]:
    return squared_from_cosine(np.dot(query, gallery.T, out=distance), out=distance)


def squared_from_cosine(cosine: NDArray[np.float32], *, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of any shape -> squared Euclidean distances 2 - 2 cos, in 0..4, written to `out`."""
    np.multiply(cosine, -2, out=out)
    np.add(out, 2, out=out)
    # rounding puts equal vectors a little below zero
    return np.maximum(out, 0, out=out)
