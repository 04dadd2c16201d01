"""The training augmentation as a few kernels over the whole batch, for GPUs.

It carries out the same plans as `reid.data.augment`, which works image by image, and gives the same bits.

Shapes: N images of the data set, B of the batch, H height, W width, C channels.
"""

from dataclasses import astuple

import numpy as np
import torch
from torch import Tensor

from reid.data.augment import Plan, erased_value, normalize


def packed(plan: Plan) -> Tensor:
    """A plan of B images as one tensor (B, 7) int64, which one copy sends to a device."""
    shift, mirror, erased = astuple(plan)
    return torch.from_numpy(np.concatenate([shift, mirror[:, None], erased], axis=1).astype(np.int64))


def augment_batch(pixels: Tensor, plan: Tensor, *, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """pixels (B, H, W, C) uint8, plan (B, 7) -> (B, C, H, W) float32, normalised, in channels-last memory.

    Everything happens on the device of the pixels; nothing is read back from it.
    """
    count, height, width, _ = pixels.shape
    down, right, mirror, top, left, box_height, box_width = plan.unbind(dim=1)
    rows, columns = (torch.arange(size, device=pixels.device) for size in (height, width))
    column = torch.where(mirror[:, None] > 0, width - 1 - columns, columns)  # (B, W), before the mirror
    source_row, source_column = rows - down[:, None], column - right[:, None]  # (B, H), (B, W)
    inside = _within(source_row, 0, height)[:, :, None] & _within(source_column, 0, width)[:, None, :]
    index = source_row.clamp(0, height - 1)[:, :, None] * width + source_column.clamp(0, width - 1)[:, None, :]
    image = torch.arange(count, device=pixels.device)[:, None, None]
    moved = pixels.reshape(count, height * width, -1)[image, index] * inside[..., None]  # black comes in
    images = normalize(moved, mean=mean, std=std)
    in_rows = _within(rows, top[:, None], (top + box_height)[:, None])  # (B, H)
    in_columns = _within(columns, left[:, None], (left + box_width)[:, None])
    erased = in_rows[:, None, :, None] & in_columns[:, None, None, :]  # (B, 1, H, W)
    return torch.where(erased, erased_value(mean, pixels.device), images).contiguous(memory_format=torch.channels_last)


def _within(values: Tensor, low: Tensor | int, high: Tensor | int) -> Tensor:
    return (values >= low) & (values < high)
