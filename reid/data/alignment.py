"""Whether two pictures are the same one, in another encoding, size or light, or slightly cropped.

Two persons who stand alike before one wall look alike, and so do two frames of a film; a copy is the same in every
detail. So the one picture is laid on the other as exactly as shifts and scales allow (Lucas & Kanade, IJCAI 1981, with
four parameters and a change of light), and what then differs is looked at place by place: a copy differs nowhere,
another pose differs in some place.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid.data.sketch import grey_of

Floats = NDArray[np.float64]

COARSE, FINE = (16, 32), (32, 64)
"""Width and height at which pictures are aligned: first roughly, then exactly."""
STEPS = 4
LARGEST_CHANGE = 0.12
"""A scale or shift beyond this share of the picture is no slight crop."""
BORDER = 3
"""Pixels of FINE at each side that are not compared: a crop has lost them."""
BLOCKS = (4, 2)
"""Rows and columns of places that are compared one by one."""
LEAST_ALIKE = 0.95
"""Correlation of the whole pictures from which they may be the same one."""
UNALIKE = 0.85
"""Correlation after the rough alignment below which they are not aligned exactly any more."""
LARGEST_DIFFERENCE = 0.45
"""Root mean square difference of a place up to which it is the same, over the standard deviation of the picture."""


@dataclass(frozen=True)
class Likeness:
    """How alike two pictures are after alignment."""

    correlation: float
    worst_place: float
    """The root mean square difference of the place that differs most, over the picture's standard deviation."""

    @property
    def is_copy(self) -> bool:
        """Whether they are the same picture."""
        return self.correlation >= LEAST_ALIKE and self.worst_place <= LARGEST_DIFFERENCE


class Greys:
    """A picture in grey at the two sizes of the alignment."""

    def __init__(self, image: Image.Image) -> None:
        grey = grey_of(image)
        self.coarse, self.fine = (_shrunk(grey, size) for size in (COARSE, FINE))


def likeness(one: Greys, other: Greys) -> Likeness:
    """The likeness of two pictures; of one colour only, they are like nothing."""
    warp = np.zeros(4)  # scale and shift of x, scale and shift of y, relative to half the picture
    for first, second, least in ((one.coarse, other.coarse, UNALIKE), (one.fine, other.fine, -1.0)):
        for _ in range(STEPS):
            step = _step(first, second, warp)
            warp = np.clip(warp + step, -LARGEST_CHANGE, LARGEST_CHANGE)
            if np.abs(step).max() < 0.002:
                break
        rough = _compared(_warped(first, warp), second)
        if rough.correlation < least:
            return rough
    return rough


def _shrunk(grey: Image.Image, size: tuple[int, int]) -> Floats:
    return np.asarray(grey.resize(size, Image.Resampling.BOX), np.float64)


def _warped(picture: Floats, warp: Floats) -> Floats:
    """The picture (H, W) scaled and shifted; beyond its border its border goes on."""
    height, width = picture.shape
    rows = _weights(height, scale=warp[2], shift=warp[3])
    columns = _weights(width, scale=warp[0], shift=warp[1])
    return rows @ picture @ columns.T


def _weights(size: int, *, scale: float, shift: float) -> Floats:
    """(size, size): the weights of linear interpolation along one axis."""
    place = np.clip(((1 + scale) * _axis(size) + shift + 1) * size / 2 - 0.5, 0, size - 1)
    low = np.minimum(place.astype(np.int64), size - 2)
    weights = np.zeros((size, size))
    every = np.arange(size)
    weights[every, low] = 1 - (place - low)
    weights[every, low + 1] = place - low
    return weights


def _axis(size: int) -> Floats:
    """The centres of the pixels, -1 to 1."""
    return (2 * np.arange(size) + 1) / size - 1


def _step(first: Floats, second: Floats, warp: Floats) -> Floats:
    """The change of the warp (4,) that brings the first picture nearer to the second, by least squares."""
    moved = _warped(first, warp)
    height, width = moved.shape
    down, right = np.gradient(moved)
    down, right = down * height / 2, right * width / 2  # per unit of the axes
    x, y = np.broadcast_to(_axis(width), moved.shape), np.broadcast_to(_axis(height)[:, None], moved.shape)
    columns = [right * x, right, down * y, down, moved, np.ones_like(moved)]
    system = np.stack([column[1:-1, 1:-1].ravel() for column in columns], axis=1)  # (pixels, 6)
    found, *_ = np.linalg.lstsq(system.T @ system, system.T @ second[1:-1, 1:-1].ravel(), rcond=None)
    gain = found[4]
    return np.asarray(found[:4] / gain if abs(gain) > 0.2 else np.zeros(4))


def _compared(first: Floats, second: Floats) -> Likeness:
    """The likeness of pictures that lie on each other."""
    first, second = (picture[BORDER:-BORDER, BORDER:-BORDER] for picture in (first, second))
    first, second = first - first.mean(), second - second.mean()
    power = float((first * first).sum()), float((second * second).sum())
    if min(power) <= 0:
        return Likeness(0.0, float("inf"))
    product = float((first * second).sum())
    difference = second - first * (product / power[0])
    spread = (power[1] / second.size) ** 0.5
    places = [
        float(np.sqrt(np.mean(place**2)))
        for rows in np.array_split(difference, BLOCKS[0], axis=0)
        for place in np.array_split(rows, BLOCKS[1], axis=1)
    ]
    return Likeness(product / (power[0] * power[1]) ** 0.5, max(places) / spread)
