"""Training augmentation of whole batches: pad-and-crop, flip, colours, random erasing; normalised as the contract says.

It has two steps. `draw` takes all random numbers from a generator and returns a plan, a few numbers for each image;
`augment` carries out a plan and has nothing random in it. So a batch is the same whichever process makes it, and after
a resume.

Shapes: B images, H height, W width, C channels.
"""

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from reid.contract import scale_and_offset
from reid.data.colours import Colours, draw_colours
from reid.data.operations import Operations, carry_out, parameters_of

STREAM = 2  # keeps these draws apart from the sampler's, which share the seed
ERASED_AREA = (0.02, 0.4)
ERASED_ASPECT = (0.3, 1 / 0.3)
ERASING_TRIES = 100
NOISE_AREA = (0.02, 1 / 3)
NOISE_TRIES = 10
NOISE_STARTS = 1 << 20
"""Number of places at which the noise of an erased box may begin in the sequence of noise values."""

Erasing = Literal["mean", "noise"]
"""What an erased box is filled with."""


@dataclass(frozen=True)
class Plan:
    """What happens to each of B images, in this order: before, shift (black comes in), mirror, after, erase."""

    shift: NDArray[np.int64]
    """(B, 2) pixels down and right, -padding..padding."""
    mirror: NDArray[np.bool_]
    """(B,)"""
    erased: NDArray[np.int64]
    """(B, 4) top, left, height, width of the erased box; a height of 0 means none."""
    before: Operations | None = None
    """AutoAugment; None: nothing."""
    after: Operations | None = None
    """Colour jitter and grey; None: nothing."""
    noise: NDArray[np.int64] | None = None
    """(B,) at which of NOISE_STARTS the noise in the image's erased box begins; None: boxes hold the mean."""

    def rows(self, rows: slice) -> "Plan":
        """The part of the plan that belongs to some of the images."""
        before, after = (part and part.rows(rows) for part in (self.before, self.after))
        noise = None if self.noise is None else self.noise[rows]
        return Plan(self.shift[rows], self.mirror[rows], self.erased[rows], before, after, noise)


def step_rng(*, seed: int, epoch: int, step: int) -> np.random.Generator:
    """The random generator of one global batch, which does not depend on what ran before it."""
    return np.random.default_rng([seed, epoch, STREAM, step])


def draw(
    rng: np.random.Generator,
    count: int,
    *,
    height: int,
    width: int,
    padding: int,
    flip_probability: float,
    erasing_probability: float,
    erasing: Erasing = "mean",
    colours: Colours | None = None,
) -> Plan:
    """A plan for `count` images: a crop at random after padding, a flip by chance, a random erased box by chance.

    Colours have random streams of their own: None gives the same plan without them.

    The box follows Zhong et al., AAAI 2020, arXiv:1708.04896, algorithm 1: area 0.02-0.4 of the image, aspect
    0.3-3.33, drawn again until it fits (if all hundred tries fail, nothing is erased). A box of noise follows timm's
    RandomErasing, mode pixel: area 0.02-0.333, the logarithm of the aspect uniform, ten tries. Shifting before
    mirroring has the same distribution as after.
    """
    shift = rng.integers(-padding, padding, (count, 2), endpoint=True)
    mirror = rng.random(count) < flip_probability
    erase = rng.random(count) < erasing_probability
    if erasing == "noise":
        area = rng.uniform(*NOISE_AREA, (count, NOISE_TRIES)) * (height * width)
        aspect = np.exp(rng.uniform(math.log(ERASED_ASPECT[0]), math.log(ERASED_ASPECT[1]), (count, NOISE_TRIES)))
    else:
        area = rng.uniform(*ERASED_AREA, (count, ERASING_TRIES)) * (height * width)
        aspect = rng.uniform(*ERASED_ASPECT, (count, ERASING_TRIES))
    box_height = np.rint(np.sqrt(area * aspect)).astype(np.int64)
    box_width = np.rint(np.sqrt(area / aspect)).astype(np.int64)
    fits = (box_height < height) & (box_width < width)
    first = fits.argmax(axis=1)[:, None]
    box_height = np.where(fits.any(axis=1) & erase, np.take_along_axis(box_height, first, 1)[:, 0], 0)
    box_width = np.take_along_axis(box_width, first, 1)[:, 0] * (box_height > 0)
    top = rng.integers(0, height - box_height, endpoint=True)
    left = rng.integers(0, width - box_width, endpoint=True)
    noise = rng.integers(0, NOISE_STARTS, count) if erasing == "noise" else None
    before, after = draw_colours(rng, count, colours) if colours else (None, None)
    return Plan(shift, mirror, np.stack([top, left, box_height, box_width], axis=1), before, after, noise)


def augment(pixels: NDArray[np.uint8], plan: Plan, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """pixels (B, H, W, C) uint8, plan of B images -> (B, C, H, W) float32, normalised, in channels-last memory.

    Erased boxes hold `mean` AFTER normalisation, as in the strong baseline and TAO (Zhong et al. fill before it); or
    noise of mean 0 and deviation 1 in each pixel and channel, after normalisation too, as in TAO's Swin.
    """
    before = dict(_changed(pixels, plan.before))
    moved = _mirror(_shift(pixels, before, plan.shift), plan.mirror)
    for row, changed in _changed(moved.numpy(), plan.after):
        moved[row] = changed
    images = normalize(moved, mean=mean, std=std)
    fill = erased_value(mean, images.device)
    if plan.noise is not None:
        values, shape = noise_values(pixels[:1].size, images.device), pixels.shape[1:]
    for row, (top, left, height, width) in enumerate(plan.erased.tolist()):
        if height:
            if plan.noise is not None:
                start = int(plan.noise[row])
                fill = values[start : start + images[row].numel()].view(shape).permute(2, 0, 1)
                fill = fill[:, top : top + height, left : left + width]
            images[row, :, top : top + height, left : left + width] = fill
    return images


def normalize(pixels: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """pixels (B, H, W, C) uint8 -> (B, C, H, W) float32: (x / 255 - mean) / std, in channels-last memory."""
    count, height, width, channels = pixels.shape
    # one row of W x C numbers at a time, because a loop over three channels would be too short to be fast
    scale, offset = _row_of_factors(mean, std, width, pixels.device)
    flat = pixels.reshape(count, height, width * channels).float().mul_(scale).add_(offset)
    return flat.view(count, height, width, channels).permute(0, 3, 1, 2)


@functools.lru_cache(maxsize=16)
def _row_of_factors(
    mean: tuple[float, ...], std: tuple[float, ...], width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """Scale and offset, (W * C,) each, kept on the device: to send them in every step would make the device wait."""
    with torch.inference_mode(mode=False):  # cached, and a training must be able to use them too
        scale, offset = (torch.from_numpy(values).repeat(width).to(device) for values in scale_and_offset(mean, std))
    return scale, offset


@functools.lru_cache(maxsize=16)
def erased_value(mean: tuple[float, ...], device: torch.device) -> Tensor:
    """(C, 1, 1): the value of erased boxes."""
    with torch.inference_mode(mode=False):
        return torch.tensor(mean, device=device)[:, None, None]


@functools.lru_cache(maxsize=4)
def noise_values(image_values: int, device: torch.device) -> Tensor:
    """(NOISE_STARTS + image_values,) of a normal distribution, always the same, kept on the device.

    An image's noise is as many of them as it has values (H x W x C), from its start on: so it costs no random numbers,
    and a CPU and a GPU erase with the same.
    """
    values = np.random.default_rng(STREAM).standard_normal(NOISE_STARTS + image_values, np.float32)
    with torch.inference_mode(mode=False):
        return torch.from_numpy(values).to(device)


def _changed(pixels: NDArray[np.uint8], operations: Operations | None) -> Iterator[tuple[int, Tensor]]:
    """The row and the image (H, W, C) after its operations, for each image of pixels (B, H, W, C) that has any."""
    if not operations:
        return
    height, width = pixels.shape[1:3]
    for row in np.flatnonzero(operations.kind.any(axis=1)).tolist():
        image = torch.from_numpy(np.array(pixels[row]))[None]
        for kind, value in zip(operations.kind[row].tolist(), operations.value[row]):
            if kind:
                parameters = parameters_of(kind, value[None], height=height, width=width)
                image = carry_out(kind, image, torch.from_numpy(parameters))
        yield row, image[0]


def _shift(pixels: NDArray[np.uint8], instead: dict[int, Tensor], shift: NDArray[np.int64]) -> Tensor:
    """Each image moved by its (down, right), some with others in their place; what moves in is black."""
    height, width = pixels.shape[1:3]
    moved = np.zeros_like(pixels)
    for row, (target, source, (down, right)) in enumerate(zip(moved, pixels, shift.tolist())):
        if abs(down) < height and abs(right) < width:  # else the whole image is moved out
            image = instead[row].numpy() if row in instead else source
            target[max(down, 0) : height + down, max(right, 0) : width + right] = image[
                max(-down, 0) : height - down, max(-right, 0) : width - right
            ]
    return torch.from_numpy(moved)


def _mirror(images: Tensor, mirror: NDArray[np.bool_]) -> Tensor:
    # one by one they stay in the processor's cache, which is 4 times as fast as all at once
    for row in np.flatnonzero(mirror).tolist():
        images[row].copy_(images[row].flip(1))
    return images
