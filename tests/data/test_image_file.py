"""Stored pixels and the picture that is read from them, both written out."""

import base64
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from reid.contract import Contract
from reid.data.file_index import read_image
from reid.data.image_file import LARGEST_PIXELS, Unreadable, decode, pixels_as_ever, read_picture
from reid.data.market1501 import IMAGE_ENDINGS, PersonImage, Split
from reid.data.on_disk import ImagesOnDisk
from reid.data.store import open_store
from reid.drawn.dataset import contact_sheet
from reid.embeddings import embed
from reid.errors import UnreadableImage
from reid.reports.sheet import thumbnail
from reid.reports.thumbnails import Thumbnails

STORED = 40 * np.array([[1, 2, 3], [4, 5, 6]], np.uint8)
UPRIGHT = {  # EXIF orientation: where the stored row 0 and column 0 lie in the picture
    1: [[1, 2, 3], [4, 5, 6]],  # top, left
    2: [[3, 2, 1], [6, 5, 4]],  # top, right
    3: [[6, 5, 4], [3, 2, 1]],  # bottom, right
    4: [[4, 5, 6], [1, 2, 3]],  # bottom, left
    5: [[1, 4], [2, 5], [3, 6]],  # left, top
    6: [[4, 1], [5, 2], [6, 3]],  # right, top
    7: [[6, 3], [5, 2], [4, 1]],  # right, bottom
    8: [[3, 6], [2, 5], [1, 4]],  # left, bottom
}


def written(image: Image.Image, format: str, **options) -> bytes:
    data = io.BytesIO()
    image.save(data, format, **options)
    return data.getvalue()


def exif(orientation: object, *, order: str = "<", kind: int = 3) -> bytes:
    """An EXIF block of two fields: the maker's name, which lies out of bounds, and the orientation."""
    rows = struct.pack(f"{order}HHII", 0x010F, 2, 9999, 8888) + struct.pack(
        f"{order}HHI{'I' if kind == 4 else 'HH'}", 0x0112, kind, 1, *([orientation] if kind == 4 else [orientation, 0])
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    return b"Exif\0\0" + mark + struct.pack(f"{order}IH", 8, 2) + rows + bytes(4)


def grey(data: bytes) -> list:
    return np.asarray(decode(data).image.convert("L")).tolist()


def rgb(data: bytes) -> list:
    return np.asarray(decode(data).image.convert("RGB")).tolist()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize("format, options", [("PNG", {}), ("WEBP", {"lossless": True}), ("TIFF", {}), ("JPEG", {})])
def test_a_picture_is_turned_as_its_exif_block_says(orientation: int, format: str, options: dict) -> None:
    block = Image.Exif()
    block[0x0112] = orientation
    stored = Image.fromarray(np.kron(STORED, np.ones((16, 16), np.uint8))).convert("RGB")  # a JPEG keeps even blocks
    found = decode(written(stored, format, exif=block, **options))
    rows, columns = np.shape(UPRIGHT[orientation])
    assert (found.orientation, found.format, found.image.size) == (orientation, format, (16 * columns, 16 * rows))
    blocks = np.asarray(found.image.convert("L"), np.int64)[8::16, 8::16]
    np.testing.assert_allclose(blocks, 40 * np.array(UPRIGHT[orientation]), atol=3 if format == "JPEG" else 0)


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("kind", [3, 4])
def test_the_orientation_is_found_behind_a_damaged_field(order: str, kind: int) -> None:
    data = written(Image.fromarray(STORED), "PNG", exif=exif(6, order=order, kind=kind))
    assert grey(data) == (40 * np.array(UPRIGHT[6])).tolist()


def test_exif_in_the_manner_of_imagemagick_is_read() -> None:
    block, info = exif(8), PngImagePlugin.PngInfo()
    info.add_text("Raw profile type exif", f"\nexif\n{len(block):8}\n{block.hex()}\n", zip=True)
    assert grey(written(Image.fromarray(STORED), "PNG", pnginfo=info)) == (40 * np.array(UPRIGHT[8])).tolist()


@pytest.mark.parametrize(
    "block", [exif(0), exif(9), exif(6, kind=7), exif(6)[:20], b"Exif\0\0", b"Exif\0\0XX*\0" + exif(6)[10:]]
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")  # as image_file.py says outside of pytest
@pytest.mark.parametrize("format", ["PNG", "JPEG"])
def test_a_damaged_exif_block_leaves_the_pixels_as_stored(block: bytes, format: str) -> None:
    found = decode(written(Image.fromarray(STORED), format, exif=block))
    assert (found.image.size, found.orientation) == ((3, 2), 0)
    if format == "PNG":
        assert np.asarray(found.image).tolist() == STORED.tolist()


@pytest.mark.parametrize("format, mode", [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_16_bit_grey_is_divided_by_257(format: str, mode: str) -> None:
    # 65535 / 257 = 255; 128 / 257 = 0.498, 129 / 257 = 0.502; 4095 / 257 = 15.93
    values = np.array([[0, 128, 129], [4095, 32768, 65535]], ">u2" if mode == "I;16B" else "<u2")
    image = Image.frombytes(mode, (3, 2), values.tobytes())
    data = written(image, format)
    assert decode(data).mode in ("I;16", "I;16B")
    assert grey(data) == [[0, 0, 1], [16, 128, 255]]


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([0, 7, 255], [0, 7, 255]),  # bytes in a wide type
        ([0, 256, 65535], [0, 1, 255]),  # 16 bits in a wide type
        ([-100, 0, 900], [0, 26, 255]),  # 255 (v + 100) / 1000: 25.5 to even
        ([0, 100_000, 200_000], [0, 128, 255]),  # 127.5 to even
        ([70_000, 70_000, 70_000], [0, 0, 0]),
    ],
)
def test_whole_numbers_of_32_bits_are_scaled_by_their_range(values: list[int], wanted: list[int]) -> None:
    data = written(Image.fromarray(np.array([values], np.int32)), "TIFF")
    assert (decode(data).mode, grey(data)) == ("I", [wanted])


@pytest.mark.parametrize(
    "values, wanted",
    [
        ([0, 0.25, 1], [0, 64, 255]),  # 63.75
        ([0.5, 0.5, 0.6], [128, 128, 153]),  # 127.5 to even; within 0..1, so nothing is stretched
        ([290, 300, 310], [0, 128, 255]),
        ([-1, 0, 1], [0, 128, 255]),
    ],
)
def test_floats_from_0_to_1_are_times_255_and_others_are_scaled_by_their_range(
    values: list[float], wanted: list[int]
) -> None:
    data = written(Image.fromarray(np.array([values], np.float32)), "TIFF")
    assert (decode(data).mode, grey(data)) == ("F", [wanted])


def test_a_float_that_is_not_finite_is_an_error() -> None:
    data = written(Image.fromarray(np.array([[0, np.nan]], np.float32)), "TIFF")
    with pytest.raises(Unreadable, match=r"^some of its values are not finite$"):
        decode(data)


def test_alpha_is_dropped() -> None:
    pixels = np.array([[[100, 5, 6, 255], [100, 7, 8, 128], [100, 9, 10, 0]]], np.uint8)
    wanted = pixels[..., :3].tolist()
    assert rgb(written(Image.fromarray(pixels), "PNG")) == wanted
    assert rgb(written(Image.fromarray(pixels), "WEBP", lossless=True, exact=True)) == wanted
    assert rgb(written(Image.fromarray(pixels), "TIFF")) == wanted
    grey_alpha = Image.fromarray(np.array([[[100, 255], [101, 128], [102, 0]]], np.uint8), "LA")
    assert grey(written(grey_alpha, "PNG")) == [[100, 101, 102]]
    assert grey(written(grey_alpha.convert("PA"), "TIFF")) == [[100, 101, 102]]


@pytest.mark.parametrize("transparency", [None, 1, bytes([255, 0, 128])])
def test_a_palette_gives_its_colours_that_of_a_transparent_entry_too(transparency: int | bytes | None) -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8))
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    assert image.mode == "P"
    data = written(image, "PNG", **({} if transparency is None else {"transparency": transparency}))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert rgb(data) == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]


def test_a_colour_that_a_file_calls_transparent_stays() -> None:
    image = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert rgb(written(image, "PNG", transparency=(4, 5, 6))) == [[[1, 2, 3], [4, 5, 6]]]


def test_cmyk_becomes_rgb_and_one_bit_becomes_black_and_white() -> None:
    # (255 - C)(255 - K) / 255: (255 - 55) * (255 - 0) / 255 = 200; (255 - 0) * (255 - 155) / 255 = 100
    image = Image.fromarray(np.array([[[55, 0, 255, 0], [0, 0, 255, 155]]], np.uint8), "CMYK")
    assert rgb(written(image, "TIFF")) == [[[200, 255, 0], [100, 100, 0]]]
    assert grey(written(Image.fromarray(np.array([[True, False]])), "PNG")) == [[255, 0]]


@pytest.mark.parametrize("format, options", [("TIFF", {}), ("WEBP", {"lossless": True}), ("PNG", {}), ("GIF", {})])
def test_of_several_frames_the_first_is_read(format: str, options: dict) -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    data = written(frames[0], format, save_all=True, append_images=frames[1:], **options)
    assert rgb(data)[0][0] == [250, 0, 0]


@pytest.mark.parametrize(
    "ending, format", list(zip(IMAGE_ENDINGS, [*3 * ["JPEG"], "PNG", "BMP", "WEBP", "TIFF", "TIFF"], strict=True))
)
def test_every_ending_is_read(tmp_path: Path, ending: str, format: str) -> None:
    path = tmp_path / f"a{ending}"
    path.write_bytes(written(Image.new("RGB", (8, 16), (90, 90, 90)), format))
    assert np.asarray(read_picture(path)).tolist() == np.full((16, 8, 3), 90).tolist()


def unreadable(data: bytes) -> str:
    with pytest.raises(Unreadable) as why:
        decode(data)
    return str(why.value)


def test_what_cannot_be_read_says_why(tmp_path: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8)
    assert unreadable(b"") == "empty file"
    assert unreadable(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(64)) == "not an image"
    for format in ("JPEG", "PNG", "TIFF", "WEBP", "BMP"):
        data = written(Image.fromarray(noise), format)
        assert unreadable(data[: len(data) // 2])
    assert unreadable(written(Image.new("LAB", (2, 2)), "TIFF")).startswith("its pixels are of PIL's mode LAB; want ")
    (tmp_path / "a.jpg").write_bytes(b"hello")
    with pytest.raises(UnreadableImage) as error:
        read_picture(tmp_path / "a.jpg")
    assert str(error.value) == f"{tmp_path}/a.jpg: cannot be read: not an image"
    os.mkfifo(tmp_path / "pipe.jpg")
    with pytest.raises(UnreadableImage, match=r"cannot be read: not a regular file$"):
        read_picture(tmp_path / "pipe.jpg")


def test_the_name_of_an_image_cannot_forge_a_line_of_its_error(tmp_path: Path) -> None:
    (tmp_path / "a\nerror: b.png").write_bytes(b"")
    with pytest.raises(UnreadableImage) as caught:
        read_picture(tmp_path / "a\nerror: b.png")
    assert str(caught.value) == f"{tmp_path}/a\\nerror: b.png: cannot be read: empty file"


MORE = "more pixels than PIL reads"


@pytest.mark.parametrize(  # PIL warns of the second and refuses the third
    ("side", "strict", "found"),
    [
        (7072, True, "7,072 x 7,072 pixels"),
        (9460, False, "9,460 x 9,460 pixels"),
        (9460, True, MORE),
        (20_000, False, MORE),
    ],
)
def test_a_file_that_claims_too_many_pixels_is_refused_before_they_are_decoded(
    side: int, strict: bool, found: str
) -> None:
    data = bytearray(written(Image.new("1", (8, 8)), "PNG"))
    data[16:24] = struct.pack(">II", side, side)
    data[29:33] = struct.pack(">I", zlib.crc32(data[12:29]))
    with warnings.catch_warnings():
        warnings.simplefilter("error" if strict else "ignore")
        assert unreadable(bytes(data)) == f"too large: {found}; want at most {LARGEST_PIXELS:,} in all"


def test_postscript_is_no_image_for_reading_it_starts_a_program() -> None:
    assert unreadable(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n") == "not an image"


def test_all_readers_give_the_same_pixels(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    stored = Image.fromarray(rng.integers(0, 256, (128, 256, 4), np.uint8))  # lies on its side, partly transparent
    root = tmp_path / "bounding_box_train"
    root.mkdir()
    path = root / "0001_c1s1_000001_01.png"
    path.write_bytes(written(stored, "PNG", exif=exif(6)))
    wanted = np.rot90(np.asarray(stored)[..., :3], -1)  # clockwise: (256, 128, 3)
    facts = read_image(path)
    assert (facts.width, facts.height, facts.mode, facts.orientation) == (128, 256, "RGBA", 6)
    split = Split(root, (PersonImage(path.name, 1, 1),))
    size = {"height": 256, "width": 128, "channels": 3}
    np.testing.assert_array_equal(read_picture(path), wanted)
    np.testing.assert_array_equal(open_store(split, **size, folder=tmp_path / "store", key="k")[0], wanted)
    np.testing.assert_array_equal(thumbnail(str(path)), wanted)  # of a sheet of matches
    sent = []  # what a Triton server is sent, and what library.embed gives a network
    contract = Contract(height=256, width=128, channels=3, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), embedding=1)

    def network(images: np.ndarray) -> np.ndarray:
        sent.append(images)
        return np.ones((len(images), 1), np.float32)

    embed(split, ImagesOnDisk(split, **size), network, contract=contract, batch_size=1, what="")
    np.testing.assert_allclose(255 * sent[0][0].transpose(1, 2, 0), wanted, atol=1e-3)
    small = Image.fromarray(np.ascontiguousarray(wanted))
    small.thumbnail((64, 112))
    data = base64.b64decode(Thumbnails(10**6, width=64, height=112).uri(path).partition(",")[2])
    assert data == written(small, "JPEG", quality=72)
    (tmp_path / "bounding_box_test").mkdir()
    contact_sheet(tmp_path, tmp_path / "sheet.png")
    cell = np.asarray(Image.open(tmp_path / "sheet.png"))[30:286, 60:188]
    np.testing.assert_array_equal(cell, wanted)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL.TiffImagePlugin")
def test_pixels_as_ever_are_those_of_plain_pil() -> None:
    plain = Image.fromarray(STORED)
    as_ever = [
        written(plain, "JPEG"),
        written(plain, "JPEG", exif=exif(1)),
        written(plain.convert("RGB"), "PNG"),
        written(plain.convert("P"), "PNG"),
        written(plain.convert("RGBA"), "PNG"),
        written(plain.convert("LA"), "PNG"),
        written(plain, "PNG", transparency=40),
    ]
    for data in as_ever:
        assert pixels_as_ever(data)
        assert rgb(data) == np.asarray(Image.open(io.BytesIO(data)).convert("RGB")).tolist()
    assert not pixels_as_ever(written(plain, "JPEG", exif=exif(6)))
    assert not pixels_as_ever(written(plain, "PNG", exif=exif(6)))
    assert not pixels_as_ever(written(Image.new("I;16", (2, 2)), "PNG"))
