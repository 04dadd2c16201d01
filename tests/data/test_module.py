"""The copy of the decoded images that each rank's GPU holds."""

from pathlib import Path

import numpy as np
import pytest
import torch

from reid.data import module
from reid.data.module import copied_to


@pytest.mark.parametrize("images", [0, 1, 5, 6])
def test_all_images_arrive_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    monkeypatch.setattr(module, "BLOCK_BYTES", 2 * 4 * 3 * 3)  # two images
    pixels = np.random.default_rng(0).integers(0, 256, (images, 4, 3, 3), np.uint8)
    np.save(tmp_path / "store.npy", pixels)
    store = np.load(tmp_path / "store.npy", mmap_mode="r") if images else pixels
    held = copied_to(torch.device("cpu"), store)
    assert held.dtype == torch.uint8
    assert np.array_equal(held.numpy(), pixels)
