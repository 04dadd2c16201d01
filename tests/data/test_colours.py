import math
from itertools import permutations

import numpy as np
import pytest
import torch
from lightning_fabric.utilities import move_data_to_device
from timm.data.auto_augment import auto_augment_policy_original

from reid.contract import Contract
from reid.data.augment import draw, step_rng
from reid.data.colours import POLICIES, VALUE_OF_LEVEL, Colours
from reid.data.module import TrainingData
from reid.data.operations import NAMES

MANY = 20_000
OFF = {
    "jitter": 0.0, "brightness": 0.0, "contrast": 0.0, "saturation": 0.0, "hue": 0.0, "grey": 0.0, "autoaugment": 0.0,
}  # fmt: skip
JITTER = {"jitter": 0.5, "brightness": 0.15, "contrast": 0.2, "saturation": 0.1, "hue": 0.1}
SHARE = 5 * 0.5 / MANY**0.5
"""Five standard deviations of a share."""


def drawn(count=MANY, **colours):
    chosen = Colours(**OFF | colours) if colours else None
    size = {"height": 24, "width": 16, "padding": 3}
    rng = step_rng(seed=1, epoch=2, step=3)
    return draw(rng, count, **size, flip_probability=0.5, erasing_probability=0.5, colours=chosen)


def test_colours_change_no_other_draw_and_not_one_another():
    plain, off, jitter = drawn(), drawn(jitter=0.0), drawn(**JITTER)
    every = drawn(**JITTER, grey=0.2, autoaugment=0.1)
    for plan in (off, jitter, every):
        for name in ("shift", "mirror", "erased"):
            assert np.array_equal(getattr(plan, name), getattr(plain, name))
    assert (plain.before, plain.after, off.before, off.after, jitter.before) == (None,) * 5
    assert np.array_equal(every.after.kind[:, :4], jitter.after.kind)
    assert np.array_equal(every.after.value[:, :4], jitter.after.value)
    alone = drawn(autoaugment=0.1)
    assert np.array_equal(every.before.kind, alone.before.kind)
    assert alone.after is None


def test_jitter_has_the_ranges_and_the_orders_of_torchvisions():
    operations = drawn(**JITTER).after
    chosen = operations.kind[:, 0] > 0
    assert abs(chosen.mean() - 0.5) < SHARE
    assert (operations.kind[chosen] > 0).all()
    for name, low, high in (
        ("brightness", 0.85, 1.15),
        ("contrast", 0.8, 1.2),
        ("saturation", 0.9, 1.1),
        ("hue", -0.1, 0.1),
    ):
        value = operations.value[operations.kind == NAMES.index(name)]
        assert len(value) == chosen.sum()
        assert low <= value.min() < low + 0.01 < high - 0.01 < value.max() <= high
        assert abs(value.mean() - (low + high) / 2) < 5 * (high - low) / math.sqrt(12 * len(value))
    orders, counts = np.unique(operations.kind[chosen], axis=0, return_counts=True)
    assert sorted(map(tuple, orders.tolist())) == sorted(permutations(sorted(orders[0].tolist())))
    assert np.abs(counts / counts.sum() - 1 / 24).max() < 5 * math.sqrt(1 / 24 / chosen.sum())


def test_a_strength_of_0_leaves_an_operation_out():
    operations = drawn(**JITTER | {"hue": 0.0, "jitter": 1.0}).after
    assert set(np.unique(operations.kind).tolist()) == {0} | {
        NAMES.index(name) for name in ("brightness", "contrast", "saturation")
    }


def test_grey_comes_last():
    operations = drawn(**JITTER, grey=0.2).after
    grey = operations.kind[:, 4] == NAMES.index("grey")
    assert abs(grey.mean() - 0.2) < SHARE
    assert NAMES.index("grey") not in operations.kind[:, :4]


def test_the_policy_is_the_original_one_of_timm():
    """Which is fast-reid's too: the same operations, probabilities and strengths."""
    names = {
        "PosterizeOriginal": "posterize", "Solarize": "solarize", "AutoContrast": "autocontrast",
        "Equalize": "equalize", "Invert": "invert", "Rotate": "rotate", "Color": "saturation", "Contrast": "contrast",
        "Sharpness": "sharpness", "ShearX": "shear",
    }  # fmt: skip
    theirs = auto_augment_policy_original({})
    for ours, other in zip(POLICIES, theirs, strict=True):
        for (name, chance, level), operation in zip(ours, other, strict=True):
            assert (name, chance) == (names[operation.name], operation.prob)
            arguments = operation.level_fn(operation.magnitude, {}) if operation.level_fn else (0,)
            assert VALUE_OF_LEVEL[name](level) == pytest.approx(abs(arguments[0]))


def test_autoaugment_takes_each_policy_each_direction_and_each_interpolation():
    operations = drawn(autoaugment=0.4).before
    happens = dict.fromkeys(NAMES[1:], 0.0)
    for policy in POLICIES:
        for name, chance, _ in policy:
            happens[name] += 0.4 * chance / len(POLICIES)
    for name in ("rotate", "shear"):
        happens[name] = happens[f"{name}, bicubic"] = happens[name] / 2
        values = operations.value[operations.kind == NAMES.index(name)]
        assert abs((values > 0).mean() - 0.5) < 5 * 0.5 / math.sqrt(len(values))
    for name, wanted in happens.items():
        assert abs((operations.kind == NAMES.index(name)).sum() / MANY - wanted) < 2 * SHARE, name
    assert set(np.unique(operations.value[operations.kind == NAMES.index("shear")])) == {-0.15, 0.15}


def training_data(**more):
    """6 persons of 5 images, with everything on."""
    contract = Contract(height=12, width=7, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=1)
    pixels = np.random.default_rng(0).integers(0, 256, (30, 12, 7, 3), np.uint8)
    colours = Colours(**OFF | JITTER | {"grey": 0.3, "autoaugment": 0.5})
    rest = {"num_workers": 0, "padding": 2, "flip_probability": 0.5, "erasing_probability": 0.5, "colours": colours}
    return TrainingData(
        pixels, np.repeat(np.arange(6), 5), contract=contract, batch_size=8, num_instances=2, seed=3, **rest | more
    )


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_from_loader_processes_and_on_a_device(workers):
    alone, device = training_data(), training_data(on_device=True)
    device.num_workers = workers
    loaded = list(device.train_dataloader())
    assert loaded[0].plan.before
    for one, parcel in zip(alone.train_dataloader(), loaded, strict=True):
        assert torch.equal(one.images, device.on_after_batch_transfer(parcel, 0).images)


def test_a_plan_goes_to_a_device_and_its_sizes_stay():
    parcel = next(iter(training_data(on_device=True).train_dataloader()))
    sent = move_data_to_device(parcel, torch.device("meta"))
    assert {sent.plan.moves.device.type, sent.plan.after.numbers.device.type} == {"meta"}
    assert [list(size) for size in sent.plan.after.sizes] == [list(size) for size in parcel.plan.after.sizes]


def test_a_rank_changes_the_colours_of_its_part_as_one_process_would():
    whole = training_data().train_dataloader().dataset
    step = next(iter(training_data().steps()))
    whole.columns = slice(0, 8)
    batch = whole[step]
    for rank in range(2):
        whole.columns = slice(4 * rank, 4 * rank + 4)
        assert torch.equal(whole[step].images, batch.images[4 * rank : 4 * rank + 4])
