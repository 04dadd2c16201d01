"""Training batches of images that are not augmented, for tests of what comes after them."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.data.module import TrainingData


def plain_data(
    pixels: NDArray[np.uint8], label: NDArray[np.int64], *, batch_size: int, num_instances: int, **more: Any
) -> TrainingData:
    """Batches of pixels (N, H, W, 3), label (N,), as they are; more: other arguments of TrainingData."""
    height, width = pixels.shape[1:3]
    plain = {"num_workers": 0, "seed": 0, "padding": 0, "flip_probability": 0.0, "erasing_probability": 0.0}
    return TrainingData(
        pixels,
        label,
        contract=Contract(height=height, width=width, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16),
        batch_size=batch_size,
        num_instances=num_instances,
        **plain | more,
    )
