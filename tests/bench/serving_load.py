"""Clients that call a server, or a network in this process, each as soon as its last answer has come (closed loop)."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from statistics import median

import numpy as np
from numpy.typing import NDArray

Call = Callable[[NDArray[np.uint8]], object]
"""Images (B, H, W, C) -> their vectors."""
Connect = Callable[[], AbstractContextManager[Call]]
"""Opens what one client calls, and closes it in the end."""
FEWEST_CALLS = 2


@dataclass(frozen=True)
class Cell:
    """What is measured in one line of the table."""

    runner: str
    batch: int
    """Images of one call."""
    clients: int


@dataclass
class Found:
    """What the rounds of a cell gave."""

    latencies_ms: list[float] = field(default_factory=list)
    rates: list[float] = field(default_factory=list)
    """Images per second, one figure for each round."""

    def percentile(self, share: float) -> float:
        """The latency below which this share (0..100) of the calls stayed."""
        return float(np.percentile(self.latencies_ms, share))

    @property
    def rate(self) -> float:
        """The median of the rounds' images per second."""
        return median(self.rates)


def times_as_fast(found: Found, other: Found) -> float:
    """The median of the ratios of both rates; the same round counts for both, so a busy machine slows them alike."""
    return median(one / two for one, two in zip(found.rates, other.rates))


def load(connect: Connect, *, images: NDArray[np.uint8], clients: int, seconds: float) -> tuple[list[float], float]:
    """Latencies in ms of all calls that `clients` threads make in about so many seconds, and the images per second.

    Each client has a call of its own from `connect`, and warms it up. An error of one client ends all, and is raised.
    """
    together = threading.Barrier(clients)

    def client(_number: int) -> tuple[float, float, list[float]]:
        try:
            with connect() as call:
                call(images)
                together.wait()
                return _calls(call, images, seconds)
        except BaseException:
            together.abort()
            raise

    with ThreadPoolExecutor(clients) as pool:
        futures = [pool.submit(client, number) for number in range(clients)]
        errors = [error for future in futures if (error := future.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    found = [future.result() for future in futures]
    latencies = [latency for _, _, taken in found for latency in taken]
    elapsed = max(ended for _, ended, _ in found) - min(began for began, _, _ in found)
    return latencies, len(latencies) * len(images) / elapsed


def _calls(call: Call, images: NDArray[np.uint8], seconds: float) -> tuple[float, float, list[float]]:
    """When the calls began and ended, and the latency of each in ms."""
    taken: list[float] = []
    began = now = time.perf_counter()
    while now < began + seconds or len(taken) < FEWEST_CALLS:
        call(images)
        after = time.perf_counter()
        taken.append(1000 * (after - now))
        now = after
    return began, now, taken
