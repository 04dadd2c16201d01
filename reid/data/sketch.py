"""A sketch of each picture, made while it is decoded anyway: what near duplicates, blur and empty pictures show by.

The look is the grey picture shrunk to WIDTH x HEIGHT values. It survives another encoding, another size, another
brightness and a small crop, so that copies are found by comparing 128 bytes; `near_duplicates.py` does that.
"""

import base64
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

WIDTH, HEIGHT = 8, 16
"""Width and height of a look; a standing person's shape, but pictures of any shape are shrunk to it."""
LARGEST = (128, 256)
"""Width and height above which a picture is halved, and halved again, before its sharpness is measured."""

LEAST_CONTRAST = 3.0
"""Standard deviation of the grey values below which a picture shows too little to be compared."""


class Sketch(NamedTuple):
    """What is kept of a picture."""

    look: str
    """HEIGHT x WIDTH grey values, row by row, as base64."""
    contrast: float
    """Standard deviation of the grey values, 0 to 127.5."""
    sharpness: float
    """Variance of the Laplacian over the variance of the grey values, so that light and contrast do not count.
    0 if the picture has one colour."""


def grey_of(image: Image.Image) -> Image.Image:
    """The picture in grey, of any mode of 8 bits."""
    if image.mode == "L":
        return image
    return (image if image.mode == "RGB" else image.convert("RGB")).convert("L")


def sketch(image: Image.Image) -> Sketch:
    """The sketch of an upright picture."""
    grey = grey_of(image)
    look = grey.resize((WIDTH, HEIGHT), Image.Resampling.BOX)
    shrink = max(1, grey.width // LARGEST[0], grey.height // LARGEST[1])
    pixels = np.asarray(grey.reduce(shrink) if shrink > 1 else grey, np.float32)
    variance = float(pixels.var())
    return Sketch(
        base64.b64encode(look.tobytes()).decode("ascii"),
        round(variance**0.5, 3),
        round(_variance_of_laplacian(pixels) / variance, 5) if variance > 0 else 0.0,
    )


def looks(texts: list[str]) -> NDArray[np.float32]:
    """(N, WIDTH * HEIGHT) of N looks, each with mean 0 and length 1, so that products are correlations.

    A look of one colour, or one that is no look, is all zeros: it is like no other one.
    """
    values = np.zeros((len(texts), WIDTH * HEIGHT), np.float32)
    for row, text in enumerate(texts):
        data = base64.b64decode(text)
        if len(data) == WIDTH * HEIGHT:
            values[row] = np.frombuffer(data, np.uint8)
    values -= values.mean(axis=1, keepdims=True)
    length = np.linalg.norm(values, axis=1, keepdims=True)
    length[length == 0] = 1
    return np.asarray(values / length, np.float32)


def _variance_of_laplacian(pixels: NDArray[np.float32]) -> float:
    """Of the inner pixels of (H, W); 0 if there are none."""
    if min(pixels.shape) < 3:
        return 0.0
    inner = pixels[1:-1, 1:-1]
    found = pixels[:-2, 1:-1] + pixels[2:, 1:-1] + pixels[1:-1, :-2] + pixels[1:-1, 2:] - 4 * inner
    return float(found.var())
