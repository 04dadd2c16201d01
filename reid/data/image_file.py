"""Reads image files: the one place at which bytes become pixels, for the store, the reports, the clients and the crops.

The pixels are those that PIL's convert gives, as torchreid and fast-reid use it, except for the first two rules:

- The EXIF orientation is applied. If the EXIF block is damaged, or says none of 1 to 8, the pixels stay as stored.
- 16-bit grey is value / 257, rounded. 32-bit whole numbers from 0 to 255 stay, those up to 65535 count as 16-bit grey,
  others are scaled from least to greatest. Floats from 0 to 1 are times 255, others scaled from least to greatest.
- Transparency is ignored: alpha is dropped, and a transparent pixel has the colour that is stored.
- CMYK becomes RGB by PIL's formula, (255 - C)(255 - K) / 255; colour profiles are not applied.
- Of several frames the first is read.
"""

import io
import stat
import struct
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from reid.console.plain import in_one_line
from reid.errors import UnreadableImage

warnings.filterwarnings("ignore", category=UserWarning, module="PIL.TiffImagePlugin")
"""PIL's complaints about EXIF fields, one for each image; `orientation` says what matters."""
LARGEST_PIXELS = 50_000_000
"""Largest number of pixels of a file: one of a few bytes can claim any number, and many threads decode at once."""
FORMATS = ("JPEG", "PNG", "BMP", "DIB", "WEBP", "TIFF", "GIF", "PPM", "JPEG2000", "AVIF", "TGA", "PCX", "ICO")
"""The formats that are read, whatever a name ends in. PIL has others that start a program (EPS) or have no pixels."""
DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")
"""PIL's modes of more than 8 bits a channel."""
MODES = (*DEEP_MODES, "1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr", "HSV")
OPAQUE = {"LA": "L", "PA": "RGB", "RGBA": "RGB"}
"""Modes with alpha -> the mode without."""
UPRIGHT, DAMAGED_EXIF = 1, 0
EMPTY_FILE = "empty file"
ORIENTATION_TAG = 0x0112
TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""EXIF orientation -> what makes the picture upright."""


class Unreadable(Exception):
    """Why a file cannot be read, in a few words; whoever knows the file's name puts it before them."""


@dataclass(frozen=True, slots=True)
class Decoded:
    """The content of an image file."""

    image: Image.Image
    """Upright, 8 bits a channel; of mode RGB or L if the file has alpha or a transparent colour."""
    mode: str
    """PIL's mode of the file: RGB, L, P, RGBA, I;16, ..."""
    format: str
    """JPEG, PNG, ..., whatever the name's ending."""
    orientation: int
    """The file's EXIF orientation, 1 to 8; 1 without EXIF, 0 if the EXIF block is damaged."""


def read_picture(path: str | Path, *, mode: str = "RGB") -> Image.Image:
    """The picture of a file in the mode RGB or L. Raises UnreadableImage, with its path, if it cannot be read."""
    try:
        return decode(read_content(Path(path))).image.convert(mode)
    except Unreadable as why:
        raise UnreadableImage(f"{in_one_line(path)}: cannot be read: {why}") from why


def read_content(path: Path) -> bytes:
    """The bytes of a regular file. Raises Unreadable."""
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # opening a named pipe would wait for ever
            raise Unreadable("not a regular file")
        return path.read_bytes()
    except OSError as error:
        raise Unreadable(error.strerror or type(error).__name__) from error


def decode(data: bytes) -> Decoded:
    """The image in these bytes, decoded completely. Raises Unreadable."""
    try:
        image = _opened(data)
        in_tiff = getattr(image, "tag_v2", {}).get(ORIENTATION_TAG, UPRIGHT)  # PIL turns a TIFF itself
        image.load()
        mode, orientation = image.mode, _orientation(image)
        picture = _eight_bits(image)
        if orientation in TURNED:
            picture = picture.transpose(TURNED[orientation])
        return Decoded(picture, mode, str(image.format), in_tiff if in_tiff in TURNED else orientation)
    except Unreadable:
        raise
    except UnidentifiedImageError:
        raise Unreadable("not an image") from None
    except Exception as error:  # decoders raise anything on damaged bytes: SyntaxError, struct.error, ...
        raise Unreadable(str(error) or type(error).__name__) from error


def pixels_as_ever(data: bytes) -> bool:
    """Whether PIL's own opening and converting, which knows none of the rules above, gives the same pixels.

    A store of decoded images that was made so can be used still. A JPEG is not decoded for that. Raises Unreadable.
    """
    try:
        image = _opened(data)
        if image.format != "JPEG":
            image.load()  # a PNG may have its EXIF block behind its pixels
        return image.mode not in DEEP_MODES and _orientation(image) not in TURNED and not getattr(image, "tag_v2", {})
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(str(error) or type(error).__name__) from error


def _opened(data: bytes) -> Image.Image:
    """The image, of which only the head is decoded; its size and mode are such that the rest may be."""
    if not data:
        raise Unreadable(EMPTY_FILE)
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
        pixels, size = image.width * image.height, f"{image.width:,} x {image.height:,} pixels"
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):  # PIL's own limit, above ours
        pixels, size = LARGEST_PIXELS + 1, "more pixels than PIL reads"
    if pixels > LARGEST_PIXELS:
        raise Unreadable(f"too large: {size}; want at most {LARGEST_PIXELS:,} in all")
    if image.mode not in MODES:
        raise Unreadable(f"its pixels are of PIL's mode {image.mode}; want one of {', '.join(MODES)}")
    return image


def _orientation(image: Image.Image) -> int:
    """What the EXIF block says, 1 if there is none, 0 if it is damaged or says none of 1 to 8.

    The block is read here because PIL gives up all of it, with a warning for each image, if any field is damaged.
    """
    exif = image.info.get("exif", b"")
    try:
        if not exif and "Raw profile type exif" in image.info:  # ImageMagick's PNG: a name, a length, lines of digits
            exif = bytes.fromhex("".join(image.info["Raw profile type exif"].split("\n")[3:]))
        return _orientation_in(exif.removeprefix(b"Exif\0\0")) if exif else UPRIGHT
    except (struct.error, KeyError, ValueError):
        return DAMAGED_EXIF


def _orientation_in(tiff: bytes) -> int:
    """EXIF is a TIFF file: byte order, 42, the place of a table; its rows of 12 bytes are tag, type, count, value."""
    order = {b"II": "<", b"MM": ">"}[tiff[:2]]
    (table,) = struct.unpack_from(f"{order}I", tiff, 4)
    (rows,) = struct.unpack_from(f"{order}H", tiff, table)
    for start in range(table + 2, table + 2 + 12 * rows, 12):
        tag, kind = struct.unpack_from(f"{order}HH", tiff, start)
        if tag == ORIENTATION_TAG:
            (value,) = struct.unpack_from(order + {3: "H", 4: "I"}[kind], tiff, start + 8)
            return int(value) if value == UPRIGHT or value in TURNED else DAMAGED_EXIF
    return UPRIGHT


def _eight_bits(image: Image.Image) -> Image.Image:
    """The image with 8 bits a channel and without transparency; of the same mode if it was so already."""
    if image.mode in DEEP_MODES:
        return Image.fromarray(_scaled(np.asarray(image), of_16_bits=image.mode.startswith("I;16")))
    image.info.pop("transparency", None)  # it changes no colour, but PIL warns of it, or looks for its place
    return image.convert(OPAQUE[image.mode]) if image.mode in OPAQUE else image


def _scaled(values: NDArray[np.generic], *, of_16_bits: bool) -> NDArray[np.uint8]:
    """Grey values (H, W) of any range as bytes, by the rules above."""
    grey = values.astype(np.float64)
    if not np.isfinite(grey).all():
        raise Unreadable("some of its values are not finite")
    least, greatest = float(grey.min()), float(grey.max())
    whole = not np.issubdtype(values.dtype, np.floating)
    if of_16_bits or (whole and least >= 0 and 255 < greatest <= 65535):
        grey /= 257
    elif not whole and least >= 0 and greatest <= 1:
        grey *= 255
    elif not (whole and least >= 0 and greatest <= 255):
        grey = (grey - least) * (255 / (greatest - least) if greatest > least else 0)
    return np.rint(grey).astype(np.uint8)
