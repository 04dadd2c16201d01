"""Every operation beside Pillow's, on which torchvision's transforms and those of timm and fast-reid rest."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image, ImageEnhance, ImageOps
from torchvision.transforms import functional

from reid.data.operations import NAMES, OPERATIONS, Operations, carry_out, grouped

HEIGHT, WIDTH = 24, 16
FACTORS = (0.0, 0.1, 0.5, 0.82, 0.85, 1.0, 1.15, 1.36, 1.54, 1.9, 2.0)
ANGLES, SHEARS = (-27.0, -24.0, -9.0, 0.0, 9.0, 27.0), (-0.3, -0.15, 0.0, 0.15, 0.3)
BILINEAR, BICUBIC = Image.Resampling.BILINEAR, Image.Resampling.BICUBIC


def rotated(image, value, how):
    return image.rotate(value, resample=how, fillcolor=fill(image))


def sheared(image, value, how):
    matrix = (1, value, 0, 0, 1, 0)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, resample=how, fillcolor=fill(image))


def fill(image):
    return 128 if image.mode == "L" else (128, 128, 128)


EXACT, CLOSE = 0, 1  # of 255
CASES = {
    "brightness": (FACTORS, EXACT, lambda image, value: ImageEnhance.Brightness(image).enhance(value)),
    "contrast": (FACTORS, CLOSE, lambda image, value: ImageEnhance.Contrast(image).enhance(value)),
    "saturation": (FACTORS, CLOSE, lambda image, value: ImageEnhance.Color(image).enhance(value)),
    "hue": ((-0.5, -0.1, -0.037, 0.0, 0.002, 0.1, 0.33, 0.5), CLOSE, functional.adjust_hue),
    "grey": ((0.0,), EXACT, lambda image, _: image.convert("L").convert(image.mode)),
    "sharpness": (FACTORS, CLOSE, lambda image, value: ImageEnhance.Sharpness(image).enhance(value)),
    "autocontrast": ((0.0,), CLOSE, lambda image, _: ImageOps.autocontrast(image)),
    "equalize": ((0.0,), EXACT, lambda image, _: ImageOps.equalize(image)),
    "invert": ((0.0,), EXACT, lambda image, _: ImageOps.invert(image)),
    "posterize": (range(1, 9), EXACT, lambda image, value: ImageOps.posterize(image, int(value))),
    "solarize": ((0, 76, 102, 128, 179, 204, 256), EXACT, lambda image, value: ImageOps.solarize(image, int(value))),
    "rotate": (ANGLES, CLOSE, partial(rotated, how=BILINEAR)),
    "rotate, bicubic": (ANGLES, CLOSE, partial(rotated, how=BICUBIC)),
    "shear": (SHEARS, CLOSE, partial(sheared, how=BILINEAR)),
    "shear, bicubic": (SHEARS, CLOSE, partial(sheared, how=BICUBIC)),
}


def pictures(channels: int) -> np.ndarray:
    """Noise, a smooth picture, a dark one, one colour, two colours; (5, H, W, C)."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (HEIGHT, WIDTH, channels), np.uint8)
    small = Image.fromarray(rng.integers(0, 256, (6, 4, 3), np.uint8))
    smooth = np.asarray(small.resize((WIDTH, HEIGHT), BICUBIC))[..., :channels]
    flat = np.full_like(noise, 77)
    return np.stack([noise, smooth, smooth // 3 + 20, flat, np.where(noise > 127, 250, flat)]).astype(np.uint8)


def changed(pixels: np.ndarray, name: str, value: float) -> np.ndarray:
    operations = Operations(np.full((len(pixels), 1), NAMES.index(name)), np.full((len(pixels), 1), float(value)))
    (group,) = grouped(operations, height=HEIGHT, width=WIDTH)
    return carry_out(group.kind, torch.from_numpy(pixels), torch.from_numpy(group.parameters)).numpy()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_pillows(name, channels):
    values, apart, pillows = CASES[name]
    pixels = pictures(channels)
    for value in values:
        for ours, image in zip(changed(pixels, name, value), pixels):
            if name == "saturation" and channels == 1:
                wanted = image
            else:
                wanted = np.asarray(pillows(Image.fromarray(image.squeeze()), value)).reshape(image.shape)
            assert np.abs(ours.astype(int) - wanted).max() <= apart, value


def test_every_colour_has_pillows_hue():
    """All hues, saturations and values, some 16 apart, turned by a tenth."""
    steps = np.append(np.arange(0, 256, 17), [1, 2, 3, 127, 254]).astype(np.uint8)
    colours = np.stack(np.meshgrid(steps, steps, steps), -1).reshape(1, -1, len(steps), 3)
    operations = Operations(np.array([[NAMES.index("hue")]]), np.array([[0.1]]))
    (group,) = grouped(operations, height=1, width=1)
    ours = carry_out(group.kind, torch.from_numpy(colours), torch.from_numpy(group.parameters)).numpy()
    wanted = np.asarray(functional.adjust_hue(Image.fromarray(colours[0]), 0.1))
    assert np.abs(ours[0].astype(int) - wanted).max() <= CLOSE


def test_groups_hold_the_images_of_one_function_in_the_order_of_the_operations():
    """By hand: 3 images; first posterize, invert and contrast, then only the first one's contrast."""
    names = [["posterize", "contrast"], ["contrast", ""], ["invert", ""]]
    kind = np.array([[NAMES.index(name) for name in row] for row in names])
    groups = list(grouped(Operations(kind, np.array([[4, 0.5], [2, 0], [0, 0]])), height=2, width=2))
    # posterize and invert are both lookups in a table
    assert [group.rows.tolist() for group in groups] == [[1], [2, 0], [0]]
    assert groups[0].parameters.tolist() == [[2 << 16]]
    assert groups[1].parameters[:, 100].tolist() == [155, 96]
    assert groups[2].parameters.tolist() == [[1 << 15]]
