"""What trackers do to a crop, by hand."""

import numpy as np
import pytest
import torch

from reid.deploy.bundles.boxmot import GREY_BARS
from reid.deploy.bundles.feeding import Feed
from reid.deploy.bundles.resampling import bilinear, bilinear_opencv, letterbox


def line(*values: int) -> np.ndarray:
    """A crop one pixel high, grey in three channels."""
    return np.repeat(np.array(values, np.uint8)[None, :, None], 3, axis=2)


def test_four_values_become_eight_by_hand() -> None:
    # Target pixel t lies at (t + 1/2) / 2 - 1/2 of the source: -1/4 (repeated), 1/4, 3/4, 5/4, ...
    found = bilinear(line(0, 100, 200, 40), 1, 8)[0, :, 0]
    assert found.tolist() == [0, 25, 75, 125, 175, 160, 80, 40]
    assert bilinear_opencv(line(0, 100, 200, 40), 1, 8)[0, :, 0].tolist() == [0, 25, 75, 125, 175, 160, 80, 40]


def test_shrinking_skips_pixels() -> None:
    # A third of six pixels: target 0 lies at 1/2 * 3 - 1/2 = 1, target 1 at 4; the four others count nothing.
    assert bilinear(line(9, 50, 9, 9, 70, 9), 1, 2)[0, :, 0].tolist() == [50, 70]
    assert bilinear_opencv(line(9, 50, 9, 9, 70, 9), 1, 2)[0, :, 0].tolist() == [50, 70]


def test_opencv_averages_exactly_twice_the_size_and_rounds_a_half_up() -> None:
    crop = np.zeros((2, 2, 3), np.uint8)
    crop[0, 0] = 2  # 2 / 4 = 0.5
    assert bilinear_opencv(crop, 1, 1).tolist() == [[[1, 1, 1]]]


@pytest.mark.parametrize("size", [(37, 21), (130, 50), (8, 8), (1, 1)])
def test_the_float_form_is_torchs_interpolate(size: tuple[int, int]) -> None:
    crop = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    images = torch.from_numpy(crop).permute(2, 0, 1)[None].float()
    theirs = torch.nn.functional.interpolate(images, size=(64, 32), mode="bilinear", align_corners=False)
    # float32 sums of values up to 255
    np.testing.assert_allclose(bilinear(crop, 64, 32), theirs[0].permute(1, 2, 0).numpy(), atol=1e-4)
    assert np.abs(bilinear(crop, 64, 32) - bilinear_opencv(crop, 64, 32)).max() <= 1


def test_a_wide_crop_stands_in_the_middle() -> None:
    assert letterbox(np.zeros((10, 20, 3), np.uint8), 64, 32) == (24, 0, 16, 32)
    assert letterbox(np.zeros((40, 10, 3), np.uint8), 64, 32) == (0, 8, 64, 16)


def test_a_feed_by_hand() -> None:
    # red 255, green 0, blue 51 = 0.2 of white
    crop = np.full((4, 2, 3), (255, 0, 51), np.uint8)
    fed = Feed(bilinear, mean=(0.5, 0.5, 0.1), std=(0.25, 0.5, 0.1))(crop, 4, 2)
    assert fed.shape == (3, 4, 2)
    np.testing.assert_allclose(fed[:, 0, 0], [2.0, -1.0, 1.0], atol=1e-6)
    np.testing.assert_allclose(Feed(bilinear, channel_order="BGR")(crop, 4, 2)[:, 0, 0], [0.2, 0, 1], atol=1e-6)


def test_bars_and_a_margin() -> None:
    white = np.full((10, 20, 3), 255, np.uint8)
    fed = Feed(bilinear, bars=GREY_BARS)(white, 64, 32)
    np.testing.assert_allclose(fed[:, 0, 0], np.array(GREY_BARS) / 255, atol=1e-6)
    assert fed[:, 32, 16].tolist() == [1, 1, 1]
    # 100 pixels grow by 2 % and 10 pixels: 6 on each side; the black line at the edge is repeated
    crop = np.full((100, 100, 3), 255, np.uint8)
    crop[0] = 0
    grown = Feed(bilinear, grown_share=0.02, grown_pixels=10)(crop, 112, 112)
    assert [int(row) for row in grown[0, :8, 50]] == [0] * 7 + [1]
