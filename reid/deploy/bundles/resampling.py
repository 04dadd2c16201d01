"""How trackers resize a crop: bilinear interpolation between four pixels, whatever the crop's size.

This project's decoder widens its filter when it shrinks an image (PIL's antialiasing). A filter of four pixels skips
pixels then, and what it takes depends on where the crop begins. OpenCV rounds to whole numbers on the way, CUDA's
textures and torch do not.

Shapes: h, w the crop's size, H, W the size wanted, C channels.
"""

import numpy as np
from numpy.typing import NDArray

Crop = NDArray[np.uint8]
"""(h, w, C)."""
COEFFICIENT = 2048
"""OpenCV's weights are whole numbers of 1 / 2048."""


def bilinear(crop: Crop, height: int, width: int) -> NDArray[np.float32]:
    """(h, w, C) -> (H, W, C) in float32, as torch's interpolate and a GPU's textures do it; edges are repeated."""
    rows, row_share = _places(len(crop), height)
    columns, column_share = _places(crop.shape[1], width)
    across = _between(crop.astype(np.float32)[:, columns], column_share[:, None], axis=1)
    pixels: NDArray[np.float32] = _between(across[rows], row_share[:, None, None], axis=0)
    return pixels


def bilinear_opencv(crop: Crop, height: int, width: int) -> Crop:
    """(h, w, C) -> (H, W, C) uint8, as cv2.resize with INTER_LINEAR, which is not antialiased.

    Of 500 values one differs by 1 from OpenCV 5.0.0's. A crop of exactly twice the size is averaged over two by two
    pixels, as OpenCV does it.
    """
    if crop.shape[:2] == (2 * height, 2 * width):
        blocks = crop.reshape(height, 2, width, 2, -1).sum(axis=(1, 3), dtype=np.int32)
        averages: Crop = ((blocks + 2) >> 2).astype(np.uint8)
        return averages
    rows, row_share = _places(len(crop), height)
    columns, column_share = _places(crop.shape[1], width)
    pairs = crop.astype(np.int32)[:, columns]  # (h, 2, W, C)
    weights = _whole_weights(column_share)[..., None]  # (2, W, 1)
    across = (pairs * weights).sum(axis=1)  # (h, W, C), in 1 / 2048
    upper, lower = (across[row] >> 4 for row in rows)
    below = _whole_weights(row_share)[..., None, None]  # (2, H, 1, 1)
    sums = ((below[0] * upper) >> 16) + ((below[1] * lower) >> 16)
    pixels: Crop = ((sums + 2) >> 2).clip(0, 255).astype(np.uint8)
    return pixels


def _places(size: int, target: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """The two source pixels (2, target) of each target pixel, and the share (target,) of the second."""
    where = (np.arange(target) + 0.5) * (size / target) - 0.5
    first = np.floor(where).astype(np.int64)
    share = np.where((first < 0) | (first >= size - 1), 0.0, where - first).astype(np.float32)
    first = first.clip(0, size - 1)
    return np.stack([first, (first + 1).clip(0, size - 1)]), share


def _between(pairs: NDArray[np.float32], share: NDArray[np.float32], *, axis: int) -> NDArray[np.float32]:
    """The values between the two of each pair, which stand along `axis`."""
    first, second = np.moveaxis(pairs, axis, 0)
    between: NDArray[np.float32] = first + (second - first) * share
    return between


def _whole_weights(share: NDArray[np.float32]) -> NDArray[np.int32]:
    """The two weights (2, target), in 1 / 2048, rounded half to even."""
    both = np.stack([1 - share, share])
    weights: NDArray[np.int32] = np.rint(both * COEFFICIENT).astype(np.int32)
    return weights


def letterbox(crop: Crop, height: int, width: int) -> tuple[int, int, int, int]:
    """The place of a crop that keeps its shape in the middle of (H, W): its top, its left, its height and its width."""
    scale = min(width / crop.shape[1], height / len(crop))
    inner_height, inner_width = max(1, int(len(crop) * scale)), max(1, int(crop.shape[1] * scale))
    return (height - inner_height) // 2, (width - inner_width) // 2, inner_height, inner_width
