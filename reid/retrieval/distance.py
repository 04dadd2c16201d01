"""Distances between embeddings. Q queries, G gallery images, D values a vector."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError
from reid.retrieval.copies import Copies

BLOCK_BYTES = 64 << 20
"""Approximate size of a streamed block of distances."""


def l2_normalize(vectors: NDArray[np.floating], *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
    """vectors (N, D) -> (N, D) float32, every row scaled to Euclidean length 1; written to `out` if that is given.

    Raises ArtifactError if a row is not finite or all zeros: such an embedding has no direction, and its distances
    mean nothing.
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
    if out is None:
        out = np.empty(vectors.shape, np.float32)
    np.divide(vectors, length[:, None], out=out, casting="same_kind")  # in float64, a buffer at a time
    return out


def euclidean_squared(query: NDArray[np.float32], gallery: NDArray[np.float32]) -> NDArray[np.float32]:
    """query (Q, D), gallery (G, D), rows of length 1 -> (Q, G) float32: squared Euclidean, 2 - 2 cos, in 0..4.

    Equal gallery vectors are equally distant.
    """
    distance = np.empty((len(query), len(gallery)), np.float32)
    for first, block in distance_rows(query, gallery):
        distance[first : first + len(block)] = block
    return distance


def distance_rows(
    query: NDArray[np.float32], gallery: NDArray[np.float32]
) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """The rows of `euclidean_squared` in blocks: (first query, (rows, G) float32), so that no (Q, G) matrix is held."""
    copies = Copies.among(gallery)
    for first, end in query_blocks(len(query), len(gallery)):
        cosine = query[first:end] @ gallery.T
        copies.equalise(cosine)
        yield first, squared_from_cosine(cosine, out=cosine)


def query_blocks(queries: int, gallery: int) -> list[tuple[int, int]]:
    """[(first, end), ...) that cover the queries, with about BLOCK_BYTES of distances each."""
    rows = max(1, BLOCK_BYTES // (4 * max(gallery, 1)))
    return [(first, min(first + rows, queries)) for first in range(0, queries, rows)]


def squared_from_cosine(cosine: NDArray[np.float32], *, out: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosines of any shape -> squared Euclidean distances 2 - 2 cos, in 0..4, written to `out`."""
    np.multiply(cosine, -2, out=out)
    np.add(out, 2, out=out)
    # rounding puts equal vectors a little below zero
    return np.maximum(out, 0, out=out)
