"""Measures how fast a network is, in the same way for torch, ONNX Runtime and TensorRT.

Shapes: B images in a batch, C channels, H height, W width.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from reid.contract import Contract
from reid.embeddings import Network

WARM_UP_CALLS = 2
FEWEST_CALLS, MOST_CALLS = 3, 200


@dataclass(frozen=True)
class Speed:
    """The speed of one batch size."""

    batch_size: int
    latency_ms: float
    """The median time of a whole call, from host memory to host memory."""
    images_per_second: float


def measure_speed(network: Network, batch_sizes: Sequence[int], *, contract: Contract, seconds: float) -> list[Speed]:
    """Calls the network on noise for about `seconds` per batch size (B, C, H, W), after warming up."""
    rng = np.random.default_rng(0)
    rows = []
    for size in batch_sizes:
        images = rng.standard_normal((size, contract.channels, contract.height, contract.width), np.float32)
        for _ in range(WARM_UP_CALLS):
            network(images)
        taken: list[float] = []
        while len(taken) < FEWEST_CALLS or (sum(taken) < seconds and len(taken) < MOST_CALLS):
            started = time.perf_counter()
            network(images)
            taken.append(time.perf_counter() - started)
        median = float(np.median(taken))
        rows.append(Speed(size, 1000 * median, size / median))
    return rows
