import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from reid.contract import Contract
from reid.data.augment import Plan, _row_of_factors, augment, draw, erased_value, noise_values, normalize
from reid.data.colours import Colours
from reid.data.device_augment import PackedOperations, PackedPlan, augment_batch, packed
from reid.data.operations import NAMES, Operations
from reid.data.pixel_operations import _hue_tables, _weights

SOME = Colours(jitter=0.5, brightness=0.2, contrast=0.2, saturation=0, hue=0.1, grey=0.3, autoaugment=0.1)
MANY = Colours(jitter=1, brightness=0.5, contrast=0.5, saturation=0.5, hue=0.5, grey=0, autoaugment=1)
MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.225, 0.224)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    height=st.integers(2, 40),
    width=st.integers(2, 20),
    channels=st.sampled_from([1, 3]),
    padding=st.integers(0, 12),
    colours=st.sampled_from([None, SOME, MANY]),
    erasing=st.sampled_from(["mean", "noise"]),
)
def test_a_batch_is_to_the_bit_what_it_is_image_by_image(*, seed, height, width, channels, padding, colours, erasing):
    rng = np.random.default_rng(seed)
    count = int(rng.integers(1, 7))
    pixels = rng.integers(0, 256, (count, height, width, channels), np.uint8)
    chances = {"padding": padding, "flip_probability": 0.5, "erasing_probability": 0.7, "colours": colours}
    plan = draw(rng, count, height=height, width=width, erasing=erasing, **chances)
    before = pixels.copy()
    scales = {"mean": MEAN[:channels], "std": STD[:channels]}
    made = augment_batch(torch.from_numpy(pixels), packed(plan, height=height, width=width), **scales)
    assert torch.equal(made, augment(pixels, plan, **scales))
    np.testing.assert_array_equal(pixels, before)
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


def every_operation(count: int) -> Operations:
    """Each of them, one after the other, for every second image."""
    kind = np.arange(1, len(NAMES)) * (np.arange(count)[:, None] % 2)
    return Operations(kind, np.where(kind == NAMES.index("posterize"), 4, 0.3))


@pytest.mark.parametrize("noise", [False, True])
def test_no_step_after_the_first_sends_or_reads_a_value(noise):
    nothing = np.zeros((4, 2), np.int64), np.zeros(4, bool), np.zeros((4, 4), np.int64)
    plan = packed(Plan(*nothing, every_operation(4), every_operation(4)), height=16, width=8)
    sizes = [part.sizes for part in (plan.before, plan.after)]
    with FakeTensorMode():  # shapes and devices of a GPU that need not be there
        pixels = torch.zeros(4, 16, 8, 3, dtype=torch.uint8, device="cuda")
        moves = torch.zeros(4, 7, dtype=torch.int64, device="cuda")
        length = len(plan.before.numbers)
        operations = [PackedOperations(torch.zeros(length, dtype=torch.int64, device="cuda"), size) for size in sizes]
        start = torch.zeros(4, dtype=torch.int64, device="cuda") if noise else None
        plan = PackedPlan(moves, *operations, start)
        with Transfers() as first:
            augment_batch(pixels, plan, mean=MEAN, std=STD)
        with Transfers() as second:
            augment_batch(pixels, plan, mean=MEAN, std=STD)
    for kept in (_row_of_factors, erased_value, noise_values, _hue_tables, _weights):
        kept.cache_clear()  # of a GPU that is not there
    assert first.found
    assert second.found == []


def test_every_operation_is_to_the_bit_what_it_is_image_by_image():
    pixels = np.random.default_rng(0).integers(0, 256, (5, 20, 9, 3), np.uint8)
    for number in range(1, len(NAMES)):
        operations = Operations(np.full((5, 1), number), np.array([[0.0], [0.3], [-0.3], [1.0], [1.9]]).clip(-0.5, 1.9))
        if NAMES[number] in ("posterize", "solarize", "rotate", "rotate, bicubic"):
            operations = Operations(operations.kind, np.array([[1.0], [2.0], [8.0], [5.0], [7.0]]))
        nothing = np.zeros((5, 2), np.int64), np.zeros(5, bool), np.zeros((5, 4), np.int64)
        plan = Plan(*nothing, after=operations)
        made = augment_batch(torch.from_numpy(pixels), packed(plan, height=20, width=9), mean=MEAN, std=STD)
        assert torch.equal(made, augment(pixels, plan, mean=MEAN, std=STD)), NAMES[number]


def test_by_hand_a_mirror_a_shift_and_a_box():
    pixels = torch.tensor([10, 20, 30], dtype=torch.uint8).reshape(1, 1, 3, 1)
    plan = Plan(np.array([[0, 1]]), np.array([True]), np.array([[0, 2, 1, 1]]))
    made = augment_batch(pixels, packed(plan, height=1, width=3), mean=(0.0,), std=(1.0,))
    # moved right by one: 0 10 20; mirrored: 20 10 0; the last one erased: filled with the mean, 0
    assert (made * 255).flatten().tolist() == pytest.approx([20, 10, 0])


def test_bytes_normalised_on_a_device_are_to_the_bit_what_the_contract_makes_of_them():
    contract = Contract(height=16, width=8, channels=3, mean=MEAN, std=STD, embedding=1)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 16, 8, 3), np.uint8)
    made = normalize(torch.from_numpy(pixels), mean=MEAN, std=STD)
    np.testing.assert_array_equal(made.numpy(), contract.preprocess(pixels))
