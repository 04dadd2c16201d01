"""The training augmentation as a few kernels over the whole batch, for GPUs.

It carries out the same plans as `reid.data.augment`, which works image by image, and gives the same bits.

Shapes: N images of the data set, B of the batch, H height, W width, C channels.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from reid.data.augment import Plan, erased_value, noise_values, normalize
from reid.data.operations import Operations, carry_out, grouped


class PackedOperations(NamedTuple):
    """Operations in groups of images that one function changes at once."""

    numbers: Tensor
    """(L,) int64: of each group the rows (N,), then the parameters (N, K)."""
    sizes: tuple[tuple[int, int, int], ...]
    """Of each group the kind, N and K; they stay on the host, which needs them to start the kernels."""


class PackedPlan(NamedTuple):
    """A plan of B images in few tensors, so that few copies send it to a device."""

    moves: Tensor
    """(B, 7) int64: down, right, mirror, and the erased box's top, left, height, width."""
    before: PackedOperations | None
    after: PackedOperations | None
    noise: Tensor | None
    """(B,) int64: where the noise of each image's erased box begins; None: boxes hold the mean."""


def packed(plan: Plan, *, height: int, width: int) -> PackedPlan:
    """A plan for images of this size, in the form that `augment_batch` takes."""
    moves = np.concatenate([plan.shift, plan.mirror[:, None], plan.erased], axis=1).astype(np.int64)
    before, after = (_packed(part, height, width) if part else None for part in (plan.before, plan.after))
    noise = None if plan.noise is None else torch.from_numpy(plan.noise)
    return PackedPlan(torch.from_numpy(moves), before, after, noise)


def _packed(operations: Operations, height: int, width: int) -> PackedOperations | None:
    groups = list(grouped(operations, height=height, width=width))
    if not groups:
        return None
    numbers = np.concatenate([part for group in groups for part in (group.rows, group.parameters.ravel())])
    return PackedOperations(torch.from_numpy(numbers), tuple((one.kind, *one.parameters.shape) for one in groups))


def augment_batch(pixels: Tensor, plan: PackedPlan, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """pixels (B, H, W, C) uint8, plan of B images -> (B, C, H, W) float32, normalised, in channels-last memory.

    Everything happens on the device of the pixels and of the plan; nothing is read back from it.
    """
    count, height, width, _ = pixels.shape
    down, right, mirror, top, left, box_height, box_width = plan.moves.unbind(dim=1)
    pixels = _changed(pixels, plan.before)
    rows, columns = (torch.arange(size, device=pixels.device) for size in (height, width))
    column = torch.where(mirror[:, None] > 0, width - 1 - columns, columns)  # (B, W), before the mirror
    source_row, source_column = rows - down[:, None], column - right[:, None]  # (B, H), (B, W)
    inside = _within(source_row, 0, height)[:, :, None] & _within(source_column, 0, width)[:, None, :]
    index = source_row.clamp(0, height - 1)[:, :, None] * width + source_column.clamp(0, width - 1)[:, None, :]
    image = torch.arange(count, device=pixels.device)[:, None, None]
    moved = pixels.reshape(count, height * width, -1)[image, index] * inside[..., None]  # black comes in
    images = normalize(_changed(moved, plan.after), mean=mean, std=std)
    in_rows = _within(rows, top[:, None], (top + box_height)[:, None])  # (B, H)
    in_columns = _within(columns, left[:, None], (left + box_width)[:, None])
    erased = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (B, 1, H, W)
    fill = erased_value(mean, pixels.device) if plan.noise is None else _noise(images, plan.noise)
    return torch.where(erased, fill, images).contiguous(memory_format=torch.channels_last)


def _noise(images: Tensor, start: Tensor) -> Tensor:
    """(B, C, H, W): the noise of each image, from its start in `noise_values` on."""
    count, channels, height, width = images.shape
    values = noise_values(images[:1].numel(), images.device)
    index = start.int()[:, None] + torch.arange(images[:1].numel(), dtype=torch.int32, device=images.device)
    return values.index_select(0, index.view(-1)).view(count, height, width, channels).permute(0, 3, 1, 2)


def _changed(images: Tensor, operations: PackedOperations | None) -> Tensor:
    """(B, H, W, C) after the operations, group by group."""
    if not operations:
        return images
    images, start = images.clone(), 0
    for kind, count, width in operations.sizes:
        rows = operations.numbers[start : start + count]
        parameters = operations.numbers[start + count : start + count * (1 + width)].view(count, width)
        images.index_copy_(0, rows, carry_out(kind, images.index_select(0, rows), parameters))
        start += count * (1 + width)
    return images


def _within(values: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return (values >= low) & (values < high)
