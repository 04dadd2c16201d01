import random
from threading import current_thread, main_thread

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from timm.data.random_erasing import RandomErasing

from reid.contract import Contract
from reid.data import sampler
from reid.data.augment import Plan, augment, draw, normalize, step_rng
from reid.data.module import TrainingData

MEAN, STD = (0.485, 0.456, 0.406), (0.226, 0.226, 0.226)
MANY = 20_000


def plan_of(count: int, **changes: object) -> Plan:
    """A plan that does nothing, but for the changes."""
    nothing = {
        "shift": np.zeros((count, 2), np.int64),
        "mirror": np.zeros(count, bool),
        "erased": np.zeros((count, 4), np.int64),
    }
    return Plan(**{**nothing, **{name: np.asarray(value) for name, value in changes.items()}})


def noise(count: int, height: int = 12, width: int = 7, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, height, width, channels), np.uint8)


def drawn(**changes: object) -> Plan:
    values = {"height": 256, "width": 128, "padding": 10, "flip_probability": 0.5, "erasing_probability": 0.5}
    return draw(step_rng(seed=1, epoch=2, step=3), MANY, **{**values, **changes})


def test_an_empty_plan_only_preprocesses_as_the_contract_says():
    pixels = noise(3)
    contract = Contract(height=12, width=7, channels=3, mean=MEAN, std=STD, embedding=1)
    images = augment(pixels, plan_of(3), mean=MEAN, std=STD)
    # float32 rounding of the same two operations in another order
    np.testing.assert_allclose(images.numpy(), contract.preprocess(pixels), atol=2e-6)
    assert images.is_contiguous(memory_format=torch.channels_last)


@given(st.integers(-3, 3), st.integers(-3, 3), st.booleans())
def test_shift_and_mirror_are_pad_and_crop_and_flip(down, right, mirror):
    pixels = noise(1)
    images = augment(pixels, plan_of(1, shift=[[down, right]], mirror=[mirror]), mean=(0.0,) * 3, std=(1.0,) * 3)
    padded = np.pad(pixels[0], ((3, 3), (3, 3), (0, 0)))
    expected = padded[3 - down : 15 - down, 3 - right : 10 - right]
    expected = expected[:, ::-1] if mirror else expected
    np.testing.assert_allclose(images[0].permute(1, 2, 0).numpy() * 255, expected, atol=1e-4)


def test_an_erased_box_holds_the_mean_after_normalisation_and_nothing_else_changes():
    pixels = noise(2)
    boxes = [[2, 1, 5, 3], [0, 0, 0, 0]]
    images = augment(pixels, plan_of(2, erased=boxes), mean=MEAN, std=STD)
    whole = normalize(torch.from_numpy(pixels), mean=MEAN, std=STD)
    assert (images[0, :, 2:7, 1:4] == torch.tensor(MEAN)[:, None, None]).all()
    images[0, :, 2:7, 1:4] = whole[0, :, 2:7, 1:4]
    assert torch.equal(images, whole)


def test_grey_images_have_one_channel():
    assert augment(noise(2, channels=1), plan_of(2), mean=(0.45,), std=(0.226,)).shape == (2, 1, 12, 7)


def test_the_crop_is_uniform_and_independent_of_the_flip():
    plan = drawn()
    for axis in (0, 1):  # 21 offsets, expected 952 each, standard deviation 30
        counts = np.bincount(plan.shift[:, axis] + 10, minlength=21)
        assert np.abs(counts - MANY / 21).max() < 5 * 30
    assert abs(plan.mirror.mean() - 0.5) < 5 * 0.5 / MANY**0.5
    correlation = np.corrcoef(np.column_stack([plan.shift, plan.mirror, plan.erased[:, 2] > 0]).T.astype(float))
    assert np.abs(correlation - np.eye(4)).max() < 5 / MANY**0.5


def textbook_erasing(rng: np.random.Generator, height: int, width: int) -> tuple[int, int, int, int]:
    """Zhong et al. 2017, algorithm 1, as reid-strong-baseline has it: a loop of tries for one image."""
    for _ in range(100):
        area, aspect = rng.uniform(0.02, 0.4) * height * width, rng.uniform(0.3, 1 / 0.3)
        box_height, box_width = round((area * aspect) ** 0.5), round((area / aspect) ** 0.5)
        if box_width < width and box_height < height:
            top, left = rng.integers(0, height - box_height + 1), rng.integers(0, width - box_width + 1)
            return int(top), int(left), box_height, box_width
    return 0, 0, 0, 0


@pytest.mark.parametrize(("height", "width"), [(256, 128), (64, 32), (24, 96)])
def test_erased_boxes_are_distributed_as_the_textbooks(height, width):
    boxes = drawn(height=height, width=width, erasing_probability=1.0).erased
    rng = np.random.default_rng(7)
    textbook = np.array([textbook_erasing(rng, height, width) for _ in range(MANY)])
    for ours, theirs in ((boxes, textbook), (boxes[:, 2:].prod(1)[:, None], textbook[:, 2:].prod(1)[:, None])):
        for column in range(ours.shape[1]):
            values = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
            steps = [np.searchsorted(np.sort(one[:, column]), values, side="right") / MANY for one in (ours, theirs)]
            # two-sample Kolmogorov-Smirnov: 1.95 sqrt(2 / n) is the 0.1 % point
            assert np.abs(steps[0] - steps[1]).max() < 1.95 * (2 / MANY) ** 0.5
    assert (boxes[:, 0] + boxes[:, 2] <= height).all()
    assert (boxes[:, 1] + boxes[:, 3] <= width).all()


def timms_boxes(height: int, width: int) -> list[tuple[int, int, int, int]]:
    """The boxes of timm's RandomErasing as TAO's Swin has it, found by what it has changed."""
    random.seed(7)
    erase = RandomErasing(probability=1.0, mode="pixel", max_count=1, device="cpu")
    boxes = []
    for _ in range(2000):
        rows, columns = torch.nonzero(erase(torch.zeros(1, height, width))[0], as_tuple=True)
        top, left = int(rows.min()), int(columns.min())
        boxes.append((top, left, int(rows.max()) + 1 - top, int(columns.max()) + 1 - left))
    return boxes


def test_boxes_of_noise_are_distributed_as_timms():
    ours, theirs = drawn(erasing="noise", erasing_probability=1.0, height=64, width=32).erased, timms_boxes(64, 32)
    theirs = np.array(theirs)
    for column in range(4):
        values = np.unique(np.concatenate([ours[:, column], theirs[:, column]]))
        steps = [np.searchsorted(np.sort(one[:, column]), values, side="right") / len(one) for one in (ours, theirs)]
        # two-sample Kolmogorov-Smirnov: 1.95 sqrt(1 / n + 1 / m) is the 0.1 % point
        assert np.abs(steps[0] - steps[1]).max() < 1.95 * (1 / MANY + 1 / 2000) ** 0.5
    assert np.array_equal(drawn(erasing="noise").shift, drawn().shift)


def test_an_erased_box_may_hold_noise_of_its_own_and_nothing_else_changes():
    pixels = noise(2, height=120, width=70)
    boxes = [[20, 10, 90, 50], [0, 5, 100, 60]]
    images = augment(pixels, plan_of(2, erased=boxes, noise=[5, 1000]), mean=MEAN, std=STD)
    first, second = images[0, :, 20:110, 10:60].clone(), images[1, :, 0:100, 5:65].clone()
    for box in (first, second):
        count = box.numel()
        assert abs(box.mean().item()) < 5 / count**0.5
        assert abs(box.std().item() - 1) < 5 / (2 * count) ** 0.5
        assert box.unique().numel() > 0.99 * count  # in each pixel and channel another one
    whole = normalize(torch.from_numpy(pixels), mean=MEAN, std=STD)
    images[0, :, 20:110, 10:60], images[1, :, 0:100, 5:65] = whole[0, :, 20:110, 10:60], whole[1, :, 0:100, 5:65]
    assert torch.equal(images, whole)


def test_probabilities_are_kept_at_their_ends():
    always, never = (
        drawn(flip_probability=1.0, erasing_probability=1.0),
        drawn(flip_probability=0.0, erasing_probability=0.0, padding=0),
    )
    assert always.mirror.all()
    assert (always.erased[:, 2] > 0).all()
    assert not never.mirror.any()
    assert not never.erased[:, 2:].any()
    assert not never.shift.any()


def training_data(num_workers: int = 0) -> TrainingData:
    """6 persons of 5 images."""
    data = TrainingData(
        noise(30),
        np.repeat(np.arange(6), 5),
        contract=Contract(height=12, width=7, channels=3, mean=MEAN, std=STD, embedding=1),
        batch_size=8,
        num_instances=2,
        num_workers=num_workers,
        seed=3,
        padding=2,
        flip_probability=0.5,
        erasing_probability=0.5,
    )
    data.num_workers = num_workers  # such a small set would use none
    return data


def test_batches_do_not_depend_on_the_number_of_loader_processes():
    alone, helped = (list(training_data(workers).train_dataloader()) for workers in (0, 2))
    assert len(alone) == len(helped) == len(training_data().steps())
    for one, other in zip(alone, helped):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.label, other.label)
        assert one.step.indices.tolist() == other.step.indices.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_loaders_of_consecutive_epochs_take_the_plans_made_ahead(monkeypatch, workers):
    data, threads, plan = training_data(workers), [], sampler.identity_batches

    def noted(*arguments, **options):
        threads.append(current_thread())
        return plan(*arguments, **options)

    monkeypatch.setattr(sampler, "identity_batches", noted)
    for epoch in range(3):
        loader, alone = data.train_dataloader(), data.steps()
        for steps in (loader.sampler, alone):
            steps.set_epoch(epoch)
        expected = [step.indices.tolist() for step in alone]
        threads.clear()
        assert [batch.step.indices.tolist() for batch in loader] == expected
        assert not [thread for thread in threads if epoch and thread is main_thread()]


def test_an_epoch_can_be_made_again_without_the_ones_before():
    loader, fresh = training_data().train_dataloader(), training_data().train_dataloader()
    for epoch in range(3):
        loader.sampler.set_epoch(epoch)
        batches = list(loader)
    fresh.sampler.set_epoch(2)
    assert all(torch.equal(one.images, other.images) for one, other in zip(batches, fresh))


def test_ranks_augment_their_part_as_one_process_would():
    whole = training_data().train_dataloader().dataset
    step = next(iter(training_data().steps()))
    whole.columns = slice(0, 8)
    batch = whole[step]
    for rank in range(2):
        whole.columns = slice(4 * rank, 4 * rank + 4)
        assert torch.equal(whole[step].images, batch.images[4 * rank : 4 * rank + 4])
