import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.data.augment import Plan, augment, draw
from reid.data.device_augment import augment_batch, packed

MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.225, 0.224)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(2, 40),
    width=st.integers(2, 20),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 12),
    count=st.integers(1, 6),
)
def test_a_batch_is_to_the_bit_what_it_is_image_by_image(seed, height, width, channels, padding, count):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (count, height, width, channels), np.uint8)
    plan = draw(
        rng, count, height=height, width=width, padding=padding, flip_probability=0.5, erasing_probability=0.7
    )
    colours = {"mean": MEAN[:channels], "std": STD[:channels]}
    made = augment_batch(torch.from_numpy(pixels), packed(plan), **colours)
    assert torch.equal(made, augment(pixels, plan, **colours))
    assert made.is_contiguous(memory_format=torch.channels_last)


def test_by_hand_a_mirror_a_shift_and_a_box():
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 3, 1)
    plan = Plan(np.array([[0, 1]]), np.array([True]), np.array([[0, 2, 1, 1]]))
    made = augment_batch(pixels, packed(plan), mean=(0.0,), std=(1.0,))
    # moved right by one: 0 10 20; mirrored: 20 10 0; the last one erased: filled with the mean, 0
    assert (made * 255).flatten().tolist() == pytest.approx([20, 10, 0])
