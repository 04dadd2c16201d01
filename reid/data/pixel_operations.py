"""Changes of the pixels of whole images: colours, sharpness, rotation, shear. All arithmetic is of whole numbers.

So they give the same bits on a CPU and on a GPU, for one image and for many. What needs floating-point numbers (sines,
factors, tables) is worked out on the host, here or in `reid.data.operations`, and rounded there. The results are those
of Pillow, on which torchvision's transforms rest; here and there they are 1 of 255 beside them, because Pillow computes
with floating-point numbers.

Shapes: N images, H height, W width, C channels (3: red, green, blue; 1: grey), K parameters of an operation.
"""

import functools
from functools import partial

import numpy as np
import torch
from torch import Tensor

FACTOR_BITS = 16
"""Binary places of a factor."""
PLACE_BITS = 24
"""Binary places of a position in an image."""
FRACTION_BITS, WEIGHT_BITS = 12, 12
"""Binary places of the distance to the pixel before, and of the weights of an interpolation."""
FILL = 128
"""What comes in from outside of an image that is rotated or sheared: grey, as in timm and fast-reid."""
GREY = (19595, 38470, 7471)
"""The weights of red, green and blue in the brightness of ITU-R 601-2, of 65536; Pillow's."""


def looked_up(images: Tensor, tables: Tensor) -> Tensor:
    """images (N, H, W, C) uint8, tables (N, 256) of one for all channels, or (N, C * 256) -> (N, H, W, C) uint8."""
    count, channels = len(images), images.shape[-1]
    tables = tables.to(torch.uint8)
    if images.device.type == "cpu" and count == 1 and tables.numel() == 256:  # 4 times as fast as torch's lookup
        table = tables.numpy().tobytes()
        return torch.frombuffer(bytearray(images.numpy().tobytes().translate(table)), dtype=torch.uint8).view_as(images)
    per_channel = tables.view(count, -1, 256).expand(count, channels, 256).reshape(-1)
    first = torch.arange(0, count * channels * 256, 256, dtype=torch.int32, device=images.device)
    index = images + first.view(count, 1, 1, channels)
    return per_channel.index_select(0, index.view(-1)).view_as(images)


def contrasted(images: Tensor, factors: Tensor) -> Tensor:
    """Each image drawn away from its mean brightness; factors (N, 1) with FACTOR_BITS, 0: all grey, 1: unchanged."""
    count, pixels = len(images), images[0, :, :, 0].numel()
    total = _brightness(images).view(count, -1).sum(1, dtype=torch.int64)
    mean = ((2 * total + pixels) // (2 * pixels)).int()[:, None]
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    return looked_up(images, _blended(levels, mean, factors.int()))


def saturated(images: Tensor, factors: Tensor) -> Tensor:
    """Each pixel drawn away from its brightness; factors (N, 1) with FACTOR_BITS, 0: grey, 1: unchanged."""
    if images.shape[-1] == 1:
        return images
    return _together(_blended(_planes(images), _brightness(images), factors.int()[:, :, None]))


def greyed(images: Tensor, _: Tensor) -> Tensor:
    """The brightness of each pixel in all channels."""
    return _brightness(images).to(torch.uint8)[..., None].expand_as(images).contiguous()


def sharpened(images: Tensor, factors: Tensor) -> Tensor:
    """Each pixel drawn away from a mean of its neighbours (weights 1, of itself 5); those on the border stay."""
    height, width = images.shape[1:3]
    if min(height, width) < 3:
        return images
    values = images.int()
    inner = values[:, 1:-1, 1:-1]
    rows = values[:, :-2] + values[:, 1:-1] + values[:, 2:]
    total = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:] + 4 * inner
    sharp = images.clone()
    sharp[:, 1:-1, 1:-1] = _blended(inner, (2 * total + 13) // 26, factors.int()[:, :, None, None])
    return sharp


def hue_turned(images: Tensor, turns: Tensor) -> Tensor:
    """The hue of each pixel moved on; turns (N, 1) of 256, as torchvision adds them to Pillow's hue of 0..255."""
    if images.shape[-1] == 1:
        return images
    red, green, blue = _planes(images)
    largest = torch.maximum(torch.maximum(red, green), blue)
    chroma = largest - torch.minimum(torch.minimum(red, green), blue)
    # 0 or 1 as factors: a choice by torch.where takes ten times as long on a CPU
    not_red, not_green = (red != largest).int(), (green != largest).int()
    third = not_red * (1 + not_green)
    if_red, if_green, if_blue = green - blue, blue - red, red - green
    ahead = if_red + not_red * (if_green - if_red + not_green * (if_blue - if_green))
    hues, saturations, depths = _hue_tables(images.device)
    hue = hues.index_select(0, (((third << 8) + chroma) * 512 + ahead + 256).view(-1)).view_as(red)
    saturation = saturations.index_select(0, ((largest << 8) + chroma).view(-1)).view_as(red)
    turned = ((hue + turns.int()[:, :, None]) & 255).view(-1)
    shares = (saturation * depth.index_select(0, turned).view_as(red) for depth in depths)
    return _together(torch.stack([_dimmed(largest, share) for share in shares]))


def _dimmed(largest: Tensor, share: Tensor) -> Tensor:
    """largest * (1 - share / 255^2), rounded, uint8; by a factor of 14 binary places, so that it fits into 32 bits."""
    factor = (255 * 255 - share) * 16512 + (1 << 15) >> 16
    return (largest * factor + (1 << 13) >> 14).to(torch.uint8)


@functools.lru_cache(maxsize=16)
def _hue_tables(device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Tables of 0..255, int32, kept on the device.

    The hue (3 * 256 * 512,) by the largest of red, green and blue, by chroma, and by how far its successor is ahead of
    its predecessor, plus 256; the saturation (256 * 256,) by largest and chroma; both with Pillow's rounding. How far
    red, green and blue (3, 256) are below the largest, as a share of the saturation, by hue.
    """
    single, double, chroma, ahead = np.float32, np.float64, np.arange(256)[:, None], np.arange(-256, 256)
    with np.errstate(divide="ignore", invalid="ignore"):
        middle = (chroma - abs(ahead)).astype(single) / chroma.astype(single)  # its distance to the largest, of chroma
        saturation = np.arange(256).astype(single) / np.arange(256).astype(single)[:, None] * double(255)
        to_predecessor, to_successor = np.where(ahead < 0, middle, single(1)), np.where(ahead < 0, single(1), middle)
        sixths = [to_predecessor - to_successor]
        sixths += [(double(start) + to_predecessor - to_successor).astype(single) for start in (2, 4)]
        hue = np.fmod(np.stack(sixths) / double(6) + 1, 1).astype(single) * double(255)
    hue = np.where((abs(ahead) <= chroma) & (chroma > 0), hue, 0)
    saturation = np.where(saturation <= 255, saturation, 0)
    around = (np.arange(256) * 6 - np.array([[0], [510], [1020]])) % 1530  # from each colour's own hue, of 6 * 255
    depth = (np.minimum(around, 1530 - around) - 255).clip(0, 255)
    with torch.inference_mode(mode=False):  # cached, and a training must be able to use them too
        hues, saturations = (torch.from_numpy(table.astype(np.int32).flatten()) for table in (hue, saturation))
        return hues.to(device), saturations.to(device), torch.from_numpy(depth.astype(np.int32)).to(device)


def stretched(images: Tensor, _: Tensor) -> Tensor:
    """The values of each channel of each image spread linearly over 0..255 (automatic contrast)."""
    flat = images.flatten(1, 2)  # (N, H * W, C)
    low, high = flat.amin(1).int()[..., None], flat.amax(1).int()[..., None]
    levels = torch.arange(256, dtype=torch.int32, device=images.device)
    spread = (255 * (levels - low) // (high - low).clamp(min=1)).clamp(0, 255)
    return looked_up(images, torch.where(high > low, spread, levels).flatten(1))


def equalized(images: Tensor, _: Tensor) -> Tensor:
    """The values of each channel of each image spread so that all are about equally frequent."""
    count, height, width, channels = images.shape
    first = torch.arange(0, count * channels * 256, 256, device=images.device).view(count, 1, 1, channels)
    index = (images + first).flatten()
    frequency = torch.zeros(count * channels * 256, dtype=torch.int32, device=images.device)
    frequency = frequency.scatter_add_(0, index, torch.ones_like(index, dtype=torch.int32)).view(count, channels, 256)
    levels = torch.arange(256, device=images.device)
    largest = images.flatten(1, 2).amax(1).long()[..., None]  # (N, C, 1)
    step = (height * width - frequency.gather(-1, largest)) // 255
    before = frequency.cumsum(-1) - frequency
    spread = ((step // 2 + before) // step.clamp(min=1)).clamp(max=255)
    return looked_up(images, torch.where(step > 0, spread, levels).flatten(1))


def moved(images: Tensor, places: Tensor, *, cubic: bool) -> Tensor:
    """Each pixel (x, y) of the result from (ax + by + c, dx + ey + f) of the image; outside of the image is FILL.

    places (N, 6): a to f with PLACE_BITS; cubic: bicubic interpolation, else bilinear.
    """
    count, height, width, channels = images.shape
    a, b, c, d, e, f = (column[:, None, None] for column in places.unbind(1))
    x, y = torch.arange(width, device=images.device), torch.arange(height, device=images.device)[:, None]
    across, down = a * x + b * y + c, d * x + e * y + f  # (N, H, W)
    inside = (across >= 0) & (across < width << PLACE_BITS) & (down >= 0) & (down < height << PLACE_BITS)
    columns, rows = _neighbours(across, width, cubic=cubic), _neighbours(down, height, cubic=cubic)
    planes = _planes(images).view(channels, -1)
    first = torch.arange(0, count * height * width, height * width, dtype=torch.int32, device=images.device)
    total = torch.zeros((channels, count, height, width), dtype=torch.int32, device=images.device)
    for row, row_weight in rows:
        in_row, start = torch.zeros_like(total), row * width + first[:, None, None]
        for column, weight in columns:
            index = (start + column).view(-1)
            # one plane after the other is twice as fast as index_select(1) of all
            in_row += weight * torch.stack([plane.index_select(0, index) for plane in planes]).view_as(total)
        # a weight of less than 256 is lost, a sum of two weights would not fit into 32 bits
        total += row_weight * (in_row >> (WEIGHT_BITS - 8))
    total = (total >> (WEIGHT_BITS + 8)).clamp_(0, 255)
    return _together(torch.where(inside, total, FILL).to(torch.uint8))


def _neighbours(places: Tensor, size: int, *, cubic: bool) -> list[tuple[Tensor, Tensor]]:
    """The pixels around each place of one direction, repeated at the border, and their weights; int32."""
    places = places - (1 << (PLACE_BITS - 1))  # the middle of a pixel is at one half
    before = (places >> PLACE_BITS).int()
    fraction = ((places >> (PLACE_BITS - FRACTION_BITS)) & ((1 << FRACTION_BITS) - 1)).int().view(-1)
    weights = _weights(places.device, cubic=cubic)
    offsets = (-1, 0, 1, 2) if cubic else (0, 1)
    return [
        ((before + offset).clamp_(0, size - 1), weight.index_select(0, fraction).view_as(before))
        for offset, weight in zip(offsets, weights)
    ]


@functools.lru_cache(maxsize=16)
def _weights(device: torch.device, *, cubic: bool) -> Tensor:
    """(neighbours, 2^FRACTION_BITS) int32, kept on the device: bilinear, or bicubic (a = -1, as Pillow's transform)."""
    t = np.arange(1 << FRACTION_BITS) / (1 << FRACTION_BITS)
    weights = np.stack(
        [-t + 2 * t**2 - t**3, 1 - 2 * t**2 + t**3, t + t**2 - t**3, t**3 - t**2] if cubic else [1 - t, t]
    )
    rounded = np.rint(weights * (1 << WEIGHT_BITS)).astype(np.int32)
    rounded[cubic] += (1 << WEIGHT_BITS) - rounded.sum(0)  # so that an even area keeps its value
    with torch.inference_mode(mode=False):  # cached, and a training must be able to use it too
        return torch.from_numpy(rounded).to(device)


def _planes(images: Tensor) -> Tensor:
    """(N, H, W, C) uint8 -> (C, N, H, W) int32, which is faster to compute with."""
    return images.movedim(-1, 0).contiguous().int()


def _together(planes: Tensor) -> Tensor:
    """(C, N, H, W) -> (N, H, W, C)"""
    return planes.movedim(0, -1).contiguous()


def _brightness(images: Tensor) -> Tensor:
    """(N, H, W) int32."""
    if images.shape[-1] == 1:
        return images[..., 0].int()
    red, green, blue = _planes(images)
    weighted: Tensor = GREY[0] * red + GREY[1] * green + GREY[2] * blue
    return (weighted + (1 << 15)) >> 16


def _blended(values: Tensor, base: Tensor, factors: Tensor) -> Tensor:
    """base + factor * (values - base), rounded down, within 0..255; all int32."""
    return (base + (factors * (values - base) >> FACTOR_BITS)).clamp_(0, 255).to(torch.uint8)


bilinear, bicubic = partial(moved, cubic=False), partial(moved, cubic=True)
