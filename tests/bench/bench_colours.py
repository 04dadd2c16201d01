"""The augmentation of a batch with colour jitter, random grey and AutoAugment, beside torchvision's transforms.

One process, one thread: milliseconds for a batch of 64 images of 256 x 128. The textbook's way is the augmentation
without colours, and torchvision's transform for the same share of the images.
"""
# ruff: noqa: T201

import json
from collections import deque
from collections.abc import Callable
from typing import Any

import numpy as np

from tests.bench.rows import Row, in_a_process, row, seconds

MODULE = "tests.bench.bench_colours"
HEIGHT, WIDTH, BATCH, BATCHES = 256, 128, 64, 8
MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.226, 0.226)
STRENGTHS = {"brightness": 0.15, "contrast": 0.15, "saturation": 0.1, "hue": 0.1}
CHANCES = {"jitter": 0.5, "grey": 0.2, "autoaugment": 0.1}
NAMES = {
    "jitter": "colour jitter for half of the images",
    "grey": "grey for a fifth",
    "autoaugment": "AutoAugment for a tenth",
}


def measure() -> list[Row]:
    """The rows of this part."""
    found = in_a_process(MODULE, {}, OMP_NUM_THREADS="1")
    plain = found["plain"]
    rows = [
        row("feeding", f"augmenting a batch of {BATCH}", plain["ms"], "ms", note=f"its plan {plain['plan_ms']:.2f} ms")
    ]
    return rows + [
        row("feeding", f"the same with {what}", found[name]["ms"], "ms",
            textbook=plain["ms"] + found[name]["textbook_ms"], textbook_is="torchvision on Pillow",
            limit=plain["ms"], limit_is="without colours",
            note=f"plan {found[name]['plan_ms']:.2f} ms, packed for a device in {found[name]['packed_ms']:.2f} ms")
        for name, what in NAMES.items()
    ]  # fmt: skip


def _measured() -> dict[str, dict[str, float]]:
    """Of each way, the milliseconds of a batch."""
    import torch
    from torchvision import transforms

    torch.set_num_threads(1)
    rng = np.random.default_rng(3)
    pixels = rng.integers(0, 256, (BATCH, HEIGHT, WIDTH, 3), np.uint8)
    textbooks = {
        "jitter": transforms.ColorJitter(**STRENGTHS),
        "grey": transforms.Grayscale(3),
        "autoaugment": transforms.AutoAugment(interpolation=transforms.InterpolationMode.BILINEAR),
    }
    found = {"plain": _of_ours(pixels, None)}
    for name, textbook in textbooks.items():
        found[name] = _of_ours(pixels, name) | {"textbook_ms": _of_textbook(pixels, textbook, CHANCES[name])}
    return found


def _of_ours(pixels: np.ndarray, name: str | None) -> dict[str, float]:
    from reid.data.augment import augment, draw, step_rng
    from reid.data.colours import Colours
    from reid.data.device_augment import packed

    chances: dict[str, Any] = dict.fromkeys(CHANCES, 0.0) | ({name: CHANCES[name]} if name else {})
    colours = Colours(**STRENGTHS, **chances)
    usual = {"padding": 10, "flip_probability": 0.5, "erasing_probability": 0.5, "colours": colours}

    def plan(step: int) -> Any:
        return draw(step_rng(seed=0, epoch=0, step=step), BATCH, height=HEIGHT, width=WIDTH, **usual)

    plans = [plan(step) for step in range(BATCHES)]
    kept: deque[object] = deque(maxlen=2)  # as in a training; else a batch may get the memory of the one before
    return {
        "ms": _of_a_batch(lambda step: kept.append(augment(pixels, plans[step], mean=MEAN, std=STD))),
        "plan_ms": _of_a_batch(plan),
        "packed_ms": _of_a_batch(lambda step: packed(plans[step], height=HEIGHT, width=WIDTH)),
    }


def _of_textbook(pixels: np.ndarray, transform: Callable[[Any], Any], chance: float) -> float:
    from PIL import Image

    chosen = np.random.default_rng(0).random((BATCHES, BATCH)) < chance
    return _of_a_batch(
        lambda step: [np.asarray(transform(Image.fromarray(pixels[row]))) for row in np.flatnonzero(chosen[step])]
    )


def _of_a_batch(work: Callable[[int], object]) -> float:
    """Milliseconds, from the best pass over all steps."""
    return seconds(lambda: [work(step) for step in range(BATCHES)], repeat=5) / BATCHES * 1e3


if __name__ == "__main__":
    print(json.dumps(_measured()))
