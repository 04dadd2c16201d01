"""The pixels that an ONNX file takes if it prepares images itself; the file's metadata holds them as JSON.

Shapes: B images in a batch, C channels, H height, W width.
"""

import json
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError

PIXELS_KEY = "reid.pixels"
"""The key of the file's metadata that holds the port, if images are prepared inside."""

LARGEST_AXIS = 1 << 16
"""The most rows, columns or images that a file may ask for."""


@dataclass(frozen=True)
class PixelPort:
    """The pixels that a file takes if it prepares images itself."""

    data_type: Literal["uint8", "float32"] = "uint8"
    layout: Literal["NHWC", "NCHW"] = "NHWC"
    channel_order: Literal["RGB", "BGR"] = "RGB"
    """Order of the channels; a grey image has one, whatever this says."""
    largest: float = 255.0
    """The value of white: 255 or 1."""
    height: int | None = None
    """Height of the images; None: any, resized inside."""
    width: int | None = None
    """Width of the images; None: any, resized inside."""
    batch: int | None = None
    """Number of images in a batch; None: any."""

    def __post_init__(self) -> None:
        """Raises ArtifactError if a field has an unknown value, or if whole numbers would have to reach from 0 to 1."""
        known = {"data_type": ("uint8", "float32"), "layout": ("NHWC", "NCHW"), "channel_order": ("RGB", "BGR")}
        for name, values in (known | {"largest": (255, 1)}).items():
            if getattr(self, name) not in values:
                raise ArtifactError(f"pixels: {name} {getattr(self, name)!r}; want {' or '.join(map(str, values))}")
        if self.data_type == "uint8" and self.largest != 255:
            raise ArtifactError("pixels: data_type uint8 with largest 1; want largest 255, or data_type float32")
        for name in ("height", "width", "batch"):
            size = getattr(self, name)
            if size is not None and (type(size) is not int or not 1 <= size <= LARGEST_AXIS):
                raise ArtifactError(f"pixels: {name} {size!r}; want 1 to {LARGEST_AXIS}, or null for any")

    def shape(self, channels: int) -> list[int | str]:
        """The shape of the input; open axes by their names batch, height and width."""
        size = [self.height or "height", self.width or "width"]
        return [self.batch or "batch", *([*size, channels] if self.layout == "NHWC" else [channels, *size])]

    def in_words(self, channels: int) -> str:
        """The pixels in the words of a report: "uint8 (batch, height, width, 3), RGB, 0 to 255"."""
        order = self.channel_order if channels == 3 else "grey"
        return f"{self.data_type} ({', '.join(map(str, self.shape(channels)))}), {order}, 0 to {self.largest:g}"

    def in_triton(self, channels: int) -> tuple[str, str]:
        """Type and shape of an image in Triton's words: TYPE_UINT8 and "-1, -1, 3"."""
        axes = self.shape(channels)[1:]
        kind = {"uint8": "TYPE_UINT8", "float32": "TYPE_FP32"}[self.data_type]
        return kind, ", ".join(str(axis) if isinstance(axis, int) else "-1" for axis in axes)

    def of_size(self, height: int, width: int) -> "PixelPort":
        """The port with this size wherever it takes any."""
        return replace(self, height=self.height or height, width=self.width or width)

    def from_decoded(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        """Decoded images (B, H, W, C), RGB or grey, of the port's size -> the array that the port takes."""
        if self.channel_order == "BGR":
            pixels = pixels[..., ::-1]
        if self.layout == "NCHW":
            pixels = pixels.transpose(0, 3, 1, 2)
        if self.data_type == "uint8":
            return np.ascontiguousarray(pixels)
        return np.ascontiguousarray(pixels.astype(np.float32) / np.float32(255 / self.largest))

    def to_json(self) -> str:
        """The port as one line of JSON, with sorted keys."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str, *, where: str = "") -> "PixelPort":
        """The port read back; raises ArtifactError, which names `where`, if it is not one."""
        try:
            return cls._read(text)
        except ArtifactError as error:
            raise ArtifactError(f"{where}: {error}" if where else str(error)) from None

    @classmethod
    def _read(cls, text: str) -> "PixelPort":
        wanted = sorted(entry.name for entry in fields(cls))
        try:
            values = json.loads(text)
        except (ValueError, RecursionError) as error:
            why = "nested too deeply" if isinstance(error, RecursionError) else error
            raise ArtifactError(f"pixels: not JSON ({why}); found: {text[:80]!r}") from None
        if not isinstance(values, dict) or sorted(values) != wanted:
            found = sorted(values) if isinstance(values, dict) else type(values).__name__
            raise ArtifactError(f"pixels: found {found}\n  want: {wanted}")
        return cls(**values)
