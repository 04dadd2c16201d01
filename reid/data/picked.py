"""Some of the decoded images of a store, as if they were a store of their own.

Shapes: N images, H height, W width, C channels.
"""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class DecodedImages(Protocol):
    """Images (N, H, W, C) uint8 that are ready to be read: a store, or some rows of one."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def nbytes(self) -> int: ...

    def __len__(self) -> int: ...

    def __getitem__(self, rows: Any, /) -> Any: ...


class PickedImages:
    """Some rows of decoded images, in an order of their own; they are read when they are asked for, never copied."""

    def __init__(self, pixels: DecodedImages, rows: NDArray[np.int64]) -> None:
        self._pixels, self._rows = pixels, rows

    @property
    def shape(self) -> tuple[int, ...]:
        """(N, H, W, C)."""
        return (len(self._rows), *self._pixels.shape[1:])

    @property
    def nbytes(self) -> int:
        """The bytes of all N images."""
        return int(np.prod(self.shape))

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, rows: slice | NDArray[np.int64], /) -> NDArray[np.uint8]:
        """The images of these rows (counted among the picked ones)."""
        images: NDArray[np.uint8] = self._pixels[self._rows[rows]]
        return images
