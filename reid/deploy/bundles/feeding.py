"""What a tracker feeds its re-identification model: resizing, bars, channel order and scale of a crop.

Written from the programs' sources, which `programs.py` names, so that a bundle can be checked without them.

Shapes: h, w the crop's size, H, W the size of the model's input, C = 3 channels.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.deploy.bundles.resampling import Crop, bilinear, letterbox

WHITE = 255.0


@dataclass(frozen=True)
class Feed:
    """How a program makes the input of its model from a crop."""

    resize: Callable[[Crop, int, int], NDArray[np.generic]]
    """(h, w, C) -> (H, W, C), values from 0 to 255."""
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    """Subtracted from pixels of 0 to 1, red first."""
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """What they are divided by then."""
    channel_order: str = "RGB"
    grown_share: float = 0.0
    """The share of the box's width and height by which it grows before the crop is cut."""
    grown_pixels: int = 0
    """The pixels that are added to both then."""
    bars: tuple[float, float, float] | None = None
    """Colour of the bars beside a crop that keeps its shape; None: it is stretched."""
    halved: bool = False
    """Whether the frame is scaled to half its size first."""

    def __call__(self, crop: Crop, height: int, width: int) -> NDArray[np.float32]:
        """crop (h, w, C), RGB -> (C, H, W) float32."""
        crop = self._grown(crop)
        if self.halved:
            half = bilinear(crop, max(1, len(crop) // 2), max(1, crop.shape[1] // 2))
            crop = np.rint(half).astype(np.uint8)
        pixels = self._resized(crop, height, width)
        if self.channel_order == "BGR":
            pixels = pixels[..., ::-1]
        mean, std = np.asarray(self.mean, np.float32), np.asarray(self.std, np.float32)
        values = (pixels / np.float32(WHITE) - mean) / std
        return np.ascontiguousarray(values.transpose(2, 0, 1), np.float32)

    def _grown(self, crop: Crop) -> Crop:
        """The crop with a margin. What the film shows there is not known; the pixels at the edge are repeated."""
        margins = [int(self.grown_share * size / 2 + self.grown_pixels / 2) for size in crop.shape[:2]]
        return np.pad(crop, [*((margin, margin) for margin in margins), (0, 0)], mode="edge") if any(margins) else crop

    def _resized(self, crop: Crop, height: int, width: int) -> NDArray[np.float32]:
        if self.bars is None:
            return np.asarray(self.resize(crop, height, width), np.float32)
        top, left, inner_height, inner_width = letterbox(crop, height, width)
        pixels = np.full((height, width, 3), self.bars, np.float32)
        inner = self.resize(crop, inner_height, inner_width)
        pixels[top : top + inner_height, left : left + inner_width] = inner
        return pixels


@dataclass(frozen=True)
class Case:
    """A way in which a program may run a model."""

    name: str
    """In the words of a table's row."""
    feed: Feed
    plain: bool = False
    """Whether it runs the file of `reid export` in place of the bundle's."""
