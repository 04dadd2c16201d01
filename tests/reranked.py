"""The re-ranker's blocks as whole matrices, and the textbook's, to hold one against the other.

Q queries, G gallery images, D values a vector of length 1.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.retrieval.rerank import both_rows
from tests import reference


def matrices(
    query: NDArray, gallery: NDArray, blocks: Callable[..., Any] = both_rows, **parameters: Any
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """query (Q, D), gallery (G, D) -> plain and final distances (Q, G), although one block is written over another."""
    plain, final = np.full((2, len(query), len(gallery)), np.nan, np.float32)
    for first, *block in blocks(np.concatenate([query, gallery]), queries=len(query), **parameters):
        for whole, part in zip((plain, final), block, strict=True):
            whole[first : first + len(part)] = part
    return plain, final


def rerank(query: NDArray, gallery: NDArray, **parameters: Any) -> NDArray[np.float32]:
    """The final distances of the compiled code (Q, G)."""
    return matrices(query, gallery, **parameters)[1]


def textbook(query: NDArray, gallery: NDArray, **parameters: Any) -> NDArray[np.floating]:
    """The final distances of the dense formula in float64 (Q, G)."""
    vectors = np.concatenate([query, gallery])
    return reference.k_reciprocal_distance(reference.squared_euclidean(vectors, vectors), len(query), **parameters)


def tolerance(query: NDArray, gallery: NDArray) -> float:
    """How far final distances may be off: float32 roundings over the greatest distance, where that is below 1."""
    vectors = np.concatenate([query, gallery])
    return 1e-6 / min(1.0, float(reference.squared_euclidean(vectors, vectors).max(axis=1).min()))
