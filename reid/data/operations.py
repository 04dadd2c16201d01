"""Which operations on pixels a plan holds for each image, and the whole numbers with which they are carried out.

A plan names operations by number and gives each a value, say a factor or degrees. What is worked out of the value with
floating-point numbers is worked out here, on the host, and rounded: `reid.data.pixel_operations` gets whole numbers.

Shapes: B images of a batch, R operations one after the other, N images of one operation, K parameters of it.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from reid.data.pixel_operations import (
    FACTOR_BITS,
    PLACE_BITS,
    bicubic,
    bilinear,
    contrasted,
    equalized,
    greyed,
    hue_turned,
    looked_up,
    saturated,
    sharpened,
    stretched,
)

Numbers = NDArray[np.int64]
LEVELS = np.arange(256)


@dataclass(frozen=True)
class Operations:
    """What is done to each of B images, one operation after the other."""

    kind: Numbers
    """(B, R) indices into NAMES; 0: nothing is done."""
    value: NDArray[np.float64]
    """(B, R), see OPERATIONS."""

    def rows(self, rows: slice) -> "Operations":
        """The part that belongs to some of the images."""
        return Operations(self.kind[rows], self.value[rows])

    def then(self, other: "Operations") -> "Operations":
        """These operations, and then the others."""
        return Operations(np.hstack([self.kind, other.kind]), np.hstack([self.value, other.value]))


class Group(NamedTuple):
    """The images of a batch that one function changes at once."""

    kind: int
    """Index into NAMES of an operation with this function."""
    rows: Numbers
    """(N,) which images of the batch."""
    parameters: Numbers
    """(N, K)"""


def grouped(operations: Operations, *, height: int, width: int) -> Iterator[Group]:
    """The operations in groups by function, to be carried out one group after the other."""
    for kinds, values in zip(operations.kind.T, operations.value.T):
        by_function: dict[Callable[..., Tensor], list[Group]] = {}
        for kind in np.unique(kinds[kinds > 0]).tolist():
            rows = np.flatnonzero(kinds == kind)
            group = Group(kind, rows, parameters_of(kind, values[rows], height=height, width=width))
            by_function.setdefault(OPERATIONS[NAMES[kind]].function, []).append(group)
        for groups in by_function.values():
            parts = ([group.rows for group in groups], [group.parameters for group in groups])
            yield Group(groups[0].kind, *(np.concatenate(part) for part in parts))


def parameters_of(kind: int, values: NDArray[np.float64], *, height: int, width: int) -> Numbers:
    """values (N,) of the operation of this number -> its parameters (N, K) for images of this size."""
    return OPERATIONS[NAMES[kind]].parameters(values, height, width)


def carry_out(kind: int, images: Tensor, parameters: Tensor) -> Tensor:
    """images (N, H, W, C) uint8, parameters (N, K) int64 -> the images after the operation of this number."""
    return OPERATIONS[NAMES[kind]].function(images, parameters)


def _brightened(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return np.floor(LEVELS.astype(np.float32) * values[:, None].astype(np.float32)).clip(0, 255).astype(np.int64)


def _posterized(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return LEVELS & -(1 << (8 - values[:, None].astype(np.int64)))


def _solarized(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return np.where(values[:, None] > LEVELS, LEVELS, 255 - LEVELS)


def _inverted(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return np.tile(255 - LEVELS, (len(values), 1))


def _factors(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return _fixed(values[:, None], FACTOR_BITS)


def _turns(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return np.trunc(values[:, None] * 255).astype(np.int64)


def _none(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    return np.empty((len(values), 0), np.int64)


def _rotation(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    rows = []
    for degrees in values.tolist():
        cosine, sine = (round(turn(math.radians(degrees)), 15) for turn in (math.cos, math.sin))
        x, y = width / 2, height / 2
        rows.append([cosine, -sine, x - cosine * x + sine * y, sine, cosine, y - sine * x - cosine * y])
    return _places(np.array(rows).reshape(-1, 6))


def _shear(values: NDArray[np.float64], height: int, width: int) -> Numbers:
    one, zero = np.ones_like(values), np.zeros_like(values)
    return _places(np.stack([one, values, zero, zero, one, zero], 1))


def _places(matrices: NDArray[np.float64]) -> Numbers:
    """matrices (N, 6) from the middle of a pixel to that of another -> parameters of `moved`."""
    a, b, c, d, e, f = matrices.T
    corner = np.stack([a, b, c + (a + b) / 2, d, e, f + (d + e) / 2], 1)
    return _fixed(corner, PLACE_BITS)


def _fixed(values: NDArray[np.float64], bits: int) -> Numbers:
    return np.rint(np.ldexp(values, bits)).astype(np.int64)


class Operation(NamedTuple):
    """What is done to the pixels, and how its value becomes whole numbers."""

    function: Callable[[Tensor, Tensor], Tensor]
    """images (N, H, W, C) uint8, parameters (N, K) int64 -> (N, H, W, C) uint8"""
    parameters: Callable[[NDArray[np.float64], int, int], Numbers]
    """values (N,), height, width -> (N, K)"""


OPERATIONS = {
    "brightness": Operation(looked_up, _brightened),  # value: a factor
    "contrast": Operation(contrasted, _factors),
    "saturation": Operation(saturated, _factors),
    "hue": Operation(hue_turned, _turns),  # a part of the circle, -0.5 to 0.5
    "grey": Operation(greyed, _none),
    "sharpness": Operation(sharpened, _factors),
    "autocontrast": Operation(stretched, _none),
    "equalize": Operation(equalized, _none),
    "invert": Operation(looked_up, _inverted),
    "posterize": Operation(looked_up, _posterized),  # the number of bits that are kept, 1 to 8
    "solarize": Operation(looked_up, _solarized),  # values from here on are inverted
    "rotate": Operation(bilinear, _rotation),  # degrees, counter-clockwise
    "rotate, bicubic": Operation(bicubic, _rotation),
    "shear": Operation(bilinear, _shear),  # pixels to the left for each row down
    "shear, bicubic": Operation(bicubic, _shear),
}
NAMES = ("", *OPERATIONS)
"""Operations by the numbers that plans hold; 0: nothing is done."""
