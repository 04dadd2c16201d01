"""How much a deployed model's embeddings differ from those of the network it was made from.

Shapes: N images, D embedding width. Row i of both arrays is the same image.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError


@dataclass(frozen=True, eq=False)
class Parity:
    """How far two sets of embeddings agree; a row with a NaN or an infinity counts as cosine -1."""

    images: int
    worst_cosine: float
    mean_cosine: float
    max_abs: float
    """The largest difference of a coordinate, over finite rows."""
    worst: tuple[int, ...]
    """The rows of the smallest cosines, worst first; five at most."""
    cosines: NDArray[np.float64]
    """(N,), one for each row."""


def parity(reference: NDArray[np.floating], candidate: NDArray[np.floating]) -> Parity:
    """reference (N, D), candidate (N, D) -> cosines row by row, and the largest difference; computed in float64.

    Two zero vectors agree (cosine 1); a zero vector against any other does not (cosine 0). Raises ArtifactError if the
    shapes differ or there is no row.
    """
    if reference.shape != candidate.shape or reference.ndim != 2 or not len(reference):
        raise ArtifactError(
            f"parity: reference {reference.shape} against candidate {candidate.shape}\n"
            "  want: two arrays of one shape (N, D), N at least 1"
        )
    left, right = reference.astype(np.float64), candidate.astype(np.float64)
    finite = np.isfinite(left).all(axis=1) & np.isfinite(right).all(axis=1)  # (N,)
    cosines = np.full(len(left), -1.0)
    cosines[finite] = _cosines(left[finite], right[finite])
    return Parity(
        images=len(left),
        worst_cosine=float(cosines.min()),
        mean_cosine=float(cosines.mean()),
        max_abs=float(np.abs(left[finite] - right[finite]).max(initial=0.0)),
        worst=tuple(int(row) for row in np.argsort(cosines, kind="stable")[:5]),
        cosines=cosines,
    )


def _cosines(left: NDArray[np.float64], right: NDArray[np.float64]) -> NDArray[np.float64]:
    """left (N, D), right (N, D), finite -> (N,), within -1..1."""
    product = np.einsum("nd,nd->n", left, right)
    lengths = np.linalg.norm(left, axis=1) * np.linalg.norm(right, axis=1)
    both_zero = ~left.any(axis=1) & ~right.any(axis=1)
    cosines = np.divide(product, lengths, out=np.zeros_like(product), where=lengths > 0)
    return np.where(both_zero, 1.0, np.clip(cosines, -1.0, 1.0))
