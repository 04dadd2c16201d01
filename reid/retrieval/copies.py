"""Equal vectors in a gallery, because an image is in it twice: their distances must be equal, so that ties go by index.

A matrix product does not promise that. Which lanes of the processor sum a column depends on the column's place, so the
results of equal columns may differ by a rounding, on one machine and not on the next. The remedy: find the vectors that
equal an earlier one, by a cheap hash first and a strong one for those that share it, and give their columns the values
of the first. N vectors, D values each.
"""

from hashlib import blake2b
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.retrieval.protocol import Integers


class Copies(NamedTuple):
    """The vectors that equal one of lower index (`later`), and the first vector that each equals (`first`)."""

    later: Integers
    first: Integers

    @classmethod
    def among(cls, vectors: NDArray[np.float32]) -> "Copies":
        """The copies among vectors (N, D); -0 equals 0. If all vectors differ this is one pass over them."""
        rng = np.random.default_rng(0)
        # an even weight drops a word's highest bit, the sign
        weights = rng.integers(1 << 31, size=vectors.shape[1], dtype=np.uint32) * np.uint32(2)
        words = np.ascontiguousarray(vectors, np.float32).view(np.uint32)
        return cls.of_equal_keys(np.einsum("nd,d->n", words, weights), vectors)

    @classmethod
    def of_equal_keys(cls, keys: NDArray[np.integer], vectors: NDArray[np.float32]) -> "Copies":
        """The copies, given keys (N,) that are equal for equal vectors and seldom for others."""
        _, group, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        first_of: dict[bytes, int] = {}
        pairs = [
            (row, first)
            for row in np.flatnonzero(sizes[group] > 1).tolist()
            if (first := first_of.setdefault(_digest(vectors[row]), row)) != row
        ]
        return cls(*np.array(pairs, np.int64).reshape(-1, 2).T)

    def equalise(self, columns: NDArray[np.float32]) -> None:
        """Sets in columns (n, N) the column of each later copy to that of the first, in place."""
        if self.later.size:
            columns[:, self.later] = columns[:, self.first]


def _digest(vector: NDArray[np.float32]) -> bytes:
    return blake2b((vector + np.float32(0)).tobytes(), digest_size=16).digest()  # -0 + 0 is 0
