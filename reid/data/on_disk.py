"""Images that are decoded when they are asked for: for images that are needed only once, a store would waste disk.

Shapes: N images, B asked for, H height, W width, C channels (3 = RGB, 1 = grey).
"""

import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
from numpy.typing import NDArray

from reid.data.market1501 import Split
from reid.data.store import read_resized


class ImagesOnDisk:
    """The images of a split, indexed as a store (N, H, W, C) is: by an array of row numbers."""

    def __init__(self, split: Split, *, height: int, width: int, channels: int) -> None:
        self._paths, self._size = split.paths, {"height": height, "width": width, "channels": channels}
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, rows: Iterable[int], /) -> NDArray[np.uint8]:
        """(B, H, W, C) uint8. Raises DatasetError if an image cannot be read."""
        # PIL decodes and resizes without the interpreter lock
        return np.stack(list(self._pool.map(lambda row: read_resized(self._paths[row], **self._size), rows)))
