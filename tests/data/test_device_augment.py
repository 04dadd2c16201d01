import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reid.contract import Contract
from reid.data.augment import Plan, _row_of_factors, augment, draw, erased_value, normalize
from reid.data.device_augment import augment_batch, packed

MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.225, 0.224)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(2, 40),
    width=st.integers(2, 20),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 12),
)
def test_a_batch_is_to_the_bit_what_it_is_image_by_image(seed, height, width, channels, padding):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 7))
    pixels = rng.integers(0, 256, (count, height, width, channels), np.uint8)
    plan = draw(rng, count, height=height, width=width, padding=padding, flip_probability=0.5, erasing_probability=0.7)
    colours = {"mean": MEAN[:channels], "std": STD[:channels]}
    made = augment_batch(torch.from_numpy(pixels), packed(plan), **colours)
    assert torch.equal(made, augment(pixels, plan, **colours))
    assert made.is_contiguous(memory_format=torch.channels_last)


class Transfers(TorchDispatchMode):
    """Notes what makes a processor wait for its GPU: values sent there or read back."""

    def __init__(self) -> None:
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        places = {value.device.type for value in (*args, result) if isinstance(value, torch.Tensor) and value.dim()}
        if len(places) > 1 or function in WAITING:
            self.found.append(str(function))
        return result


WAITING = {torch.ops.aten._local_scalar_dense.default, torch.ops.aten.nonzero.default}


def test_no_step_after_the_first_sends_or_reads_a_value():
    with FakeTensorMode():  # shapes and devices of a GPU that need not be there
        pixels = torch.zeros(4, 16, 8, 3, dtype=torch.uint8, device="cuda")
        plan = torch.zeros(4, 7, dtype=torch.int64, device="cuda")
        with Transfers() as first:
            augment_batch(pixels, plan, mean=MEAN, std=STD)
        with Transfers() as second:
            augment_batch(pixels, plan, mean=MEAN, std=STD)
    for kept in (_row_of_factors, erased_value):
        kept.cache_clear()  # of a GPU that is not there
    assert first.found
    assert second.found == []


def test_by_hand_a_mirror_a_shift_and_a_box():
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 3, 1)
    plan = Plan(np.array([[0, 1]]), np.array([True]), np.array([[0, 2, 1, 1]]))
    made = augment_batch(pixels, packed(plan), mean=(0.0,), std=(1.0,))
    # moved right by one: 0 10 20; mirrored: 20 10 0; the last one erased: filled with the mean, 0
    assert (made * 255).flatten().tolist() == pytest.approx([20, 10, 0])


def test_bytes_normalised_on_a_device_are_to_the_bit_what_the_contract_makes_of_them():
    contract = Contract(height=16, width=8, channels=3, mean=MEAN, std=STD, embedding=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 8, 3), np.uint8)
    made = normalize(torch.from_numpy(pixels), mean=MEAN, std=STD)
    np.testing.assert_array_equal(made.numpy(), contract.preprocess(pixels))
