"""The preprocessing contract: how an image is prepared for the network, and what the network returns.

It travels with the model: in the checkpoint, in the metadata of the ONNX file, in the build record beside the engine.
A program that runs the model reads it there, never in a spec.

Shapes: N images, H height, W width, C channels (3 = RGB, 1 = grey).
"""

import json
import reprlib
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError

LARGEST_JSON = 100_000
LARGEST_PIXELS, LARGEST_EMBEDDING = 1 << 24, 1 << 20
LARGEST_VALUE, SMALLEST_STD = 1e6, 1e-6
"""Bounds of what a contract may ask for. It comes with files and from servers, so a machine's memory depends on it."""


@dataclass(frozen=True)
class Contract:
    """How pixels become the network's input, and the width of its embedding."""

    height: int
    width: int
    channels: int
    mean: tuple[float, ...]
    """The mean of each channel, of pixels scaled to 0..1."""
    std: tuple[float, ...]
    """The standard deviation of each channel, of pixels scaled to 0..1."""
    embedding: int
    """The width of the output vector."""
    flip: bool = False
    """Whether the network itself adds the embedding of the mirrored image."""
    resize: str = "bilinear"
    channel_order: str = "RGB"
    normalized: bool = False
    """Whether the network's output has Euclidean length 1."""

    def to_json(self) -> str:
        """The contract as one line of JSON, with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: object, *, where: str = "") -> "Contract":
        """The contract read back; raises ArtifactError, which names `where`, if it is something else."""
        try:
            return cls._read(text)
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}" if where else str(error)) from None

    @classmethod
    def _read(cls, text: object) -> "Contract":
        if not isinstance(text, (str, bytes)) or len(text) > LARGEST_JSON:
            found = type(text).__name__ if not isinstance(text, (str, bytes)) else f"{len(text):,} characters"
            raise ArtifactError(f"preprocessing contract: found {found}\n  want: at most {LARGEST_JSON:,} of JSON")
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ArtifactError(f"preprocessing contract: not JSON ({why}); found: {text[:80]!r}") from None
        wanted = {entry.name for entry in fields(cls)}
        if not isinstance(values, dict) or set(values) != wanted:
            found = str(sorted(values)[:12]) if isinstance(values, dict) else type(values).__name__
            raise ArtifactError(f"preprocessing contract: found {found}\n  want: {sorted(wanted)}")
        for name in ("mean", "std"):
            if not isinstance(values[name], list):
                raise ArtifactError(f"preprocessing contract: {name} {_short(values[name])}\n  want: a list of numbers")
            values[name] = tuple(values[name])
        contract = cls(**values)
        contract.check()
        return contract

    def check(self) -> None:
        """Raises ArtifactError if it asks for something that `preprocess` and the image decoder cannot do."""
        for name in ("height", "width", "channels", "embedding"):
            if type(size := getattr(self, name)) is not int or size < 1:
                raise ArtifactError(f"preprocessing contract: {name} {_short(size)}\n  want: a whole number from 1")
        if self.height * self.width > LARGEST_PIXELS or self.embedding > LARGEST_EMBEDDING:
            raise ArtifactError(
                f"preprocessing contract: height {self.height}, width {self.width}, embedding {self.embedding}\n"
                f"  want: at most {LARGEST_PIXELS:,} pixels and an embedding of at most {LARGEST_EMBEDDING:,} numbers"
            )
        for name in ("flip", "normalized"):
            if type(value := getattr(self, name)) is not bool:
                raise ArtifactError(f"preprocessing contract: {name} {_short(value)}\n  want: true or false")
        wanted = {"resize": "bilinear", "channel_order": {1: "L"}.get(self.channels, "RGB")}
        for name, value in wanted.items():
            if getattr(self, name) != value:
                raise ArtifactError(
                    f"preprocessing contract: {name} {_short(getattr(self, name))} of {self.channels} channels\n"
                    f"  want: {value!r}; nothing else can be done to an image here"
                )
        if self.channels not in (1, 3):
            raise ArtifactError(f"preprocessing contract: channels {self.channels}\n  want: 3, or 1 for grey images")
        if not len(self.mean) == len(self.std) == self.channels:
            raise ArtifactError(
                f"preprocessing contract: {len(self.mean)} means and {len(self.std)} stds of {self.channels} channels\n"
                "  want: one of each per channel"
            )
        numbers = all(
            type(value) in (int, float) and -LARGEST_VALUE <= value <= LARGEST_VALUE
            for value in (*self.mean, *self.std)
        )
        if not numbers or min(self.std) < SMALLEST_STD:
            raise ArtifactError(
                f"preprocessing contract: mean {_short(self.mean)}, std {_short(self.std)}\n"
                f"  want: numbers up to {LARGEST_VALUE:g}, each std from {SMALLEST_STD:g}; pixels are scaled to 0..1"
            )

    def differences(self, **wanted: Any) -> list[str]:
        """The fields that differ from the value of their name, as "field: found, not wanted"."""
        found = asdict(self)
        return [
            f"{name}: {found[name]}, not {value}"
            for name, value in wanted.items()
            if (tuple(value) if isinstance(value, list) else value) != found[name]
        ]

    def preprocess(self, pixels: NDArray[np.uint8], *, out: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """pixels (N, H, W, C) uint8 -> (N, C, H, W) float32, scaled to 0..1, less the mean, over the std.

        With `out`, the images are written there, without a copy in between.
        """
        self.check_size(pixels)
        scale, offset = scale_and_offset(self.mean, self.std)
        if out is None:
            out = np.empty((len(pixels), self.channels, self.height, self.width), np.float32)
        for channel in range(self.channels):  # 5 times as fast as all channels in one expression
            np.multiply(pixels[..., channel], scale[channel], out=out[:, channel])
            out[:, channel] += offset[channel]
        return out

    def check_size(self, pixels: NDArray[np.uint8]) -> None:
        """Raises ArtifactError unless pixels are (N, H, W, C)."""
        if pixels.shape[1:] != (self.height, self.width, self.channels):
            raise ArtifactError(
                f"preprocessing contract: images of shape {pixels.shape[1:]}\n"
                f"  want: {(self.height, self.width, self.channels)} (height, width, channels)"
            )


def scale_and_offset(
    mean: tuple[float, ...], std: tuple[float, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """scale (C,) and offset (C,) with which x * scale + offset is (x / 255 - mean) / std.

    One multiplication and then one addition in float32 give the same bits on the CPU and on a GPU.
    """
    deviation = np.asarray(std, np.float64)
    return (1 / (255 * deviation)).astype(np.float32), (-np.asarray(mean, np.float64) / deviation).astype(np.float32)


def _short(value: object) -> str:
    return SHORT.repr(value)


SHORT = reprlib.Repr()
SHORT.maxlong = SHORT.maxstring = SHORT.maxother = 80
SHORT.maxlevel = 2
