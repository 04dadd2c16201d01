"""The losses against hand cases and the papers' formulas."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.training.losses import BatchHardTriplet, CenterLoss, LabelSmoothedCrossEntropy
from tests import reference_training as reference


def batches() -> st.SearchStrategy[tuple[int, list[int]]]:
    """A seed, and the person of each image: any number of images of any person."""
    return st.tuples(st.integers(0, 2**31), st.lists(st.integers(0, 4), min_size=1, max_size=10))


def test_triplet_by_hand() -> None:
    # On a line: person 0 at 0 and 1, person 1 at 3 and 7; margin 0.5. Only anchor 3 pays: 4 - 2 + 0.5.
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    assert BatchHardTriplet(margin=0.5)(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(2.5 / 4)


@given(batches())
@settings(max_examples=50, deadline=None)
def test_triplet_is_the_papers_for_any_number_of_images_per_person(batch: tuple[int, list[int]]) -> None:
    seed, person = batch
    features = torch.randn(len(person), 3, generator=torch.Generator().manual_seed(seed))
    ours = BatchHardTriplet(margin=0.3)(features, torch.tensor(person)).item()
    # float32 of ours against float64 of the loop
    assert ours == pytest.approx(reference.batch_hard_triplet(features.tolist(), person, 0.3), rel=1e-5, abs=1e-6)


def test_the_same_image_twice_in_a_batch_gives_a_finite_gradient() -> None:
    # person 0 is at 0 twice, person 1 at 1 and 2; margin 2. The anchors at 0 pay 0 - 1 + 2 each, at 1: 1 - 1 + 2,
    # at 2: 1 - 2 + 2
    features = torch.tensor([[0.0], [0.0], [1.0], [2.0]], requires_grad=True)
    loss = BatchHardTriplet(margin=2.0)(features, torch.tensor([0, 0, 1, 1]))
    loss.backward()
    assert loss.item() == pytest.approx((1 + 1 + 2 + 1) / 4)
    assert features.grad is not None
    assert torch.isfinite(features.grad).all()
    assert features.grad.abs().sum() > 0


def test_the_soft_margin_by_hand() -> None:
    # persons 0 at 0 and 1, person 1 at 3 and 7: ln(1 + exp(d+ - d-)) of 1 - 3, 1 - 2, 4 - 2, 4 - 6
    features = torch.tensor([[0.0], [1.0], [3.0], [7.0]])
    wanted = sum(math.log(1 + math.exp(value)) for value in (-2, -1, 2, -2)) / 4
    assert BatchHardTriplet(margin=None)(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(wanted)


def test_near_duplicates_far_from_the_origin_keep_their_distance() -> None:
    # 1,000 away from the origin the expanded square |a|^2 + |b|^2 - 2ab has lost the 0.01 in float32
    features = torch.tensor([[1000.0], [1000.01], [1001.0], [1001.01]])
    loss = BatchHardTriplet(margin=1.0)(features, torch.tensor([0, 0, 1, 1])).item()
    # anchors: 0.01 - 1 + 1, 0.01 - 0.99 + 1, 0.01 - 0.99 + 1, 0.01 - 1 + 1; float32 near 1000 steps by 6e-5
    assert loss == pytest.approx((0.01 + 0.02 + 0.02 + 0.01) / 4, abs=2e-4)


@pytest.mark.parametrize("person", [[0, 1, 2], [3, 3, 3], [7]])
def test_a_batch_without_a_whole_triplet_costs_nothing_and_trains_nothing(person: list[int]) -> None:
    features = torch.randn(len(person), 2, requires_grad=True)
    loss = BatchHardTriplet(margin=0.3)(features, torch.tensor(person))
    loss.backward()
    assert loss.item() == 0
    assert features.grad is not None
    assert features.grad.abs().max() == 0


@given(batches(), st.floats(0, 1))
@settings(max_examples=30, deadline=None)
def test_cross_entropy_is_the_papers(batch: tuple[int, list[int]], epsilon: float) -> None:
    seed, person = batch
    logits = torch.randn(len(person), 5, generator=torch.Generator().manual_seed(seed))
    ours = LabelSmoothedCrossEntropy(epsilon=epsilon)(logits, torch.tensor(person)).item()
    # float32 of ours against float64 of the loop
    assert ours == pytest.approx(reference.label_smoothed_cross_entropy(logits.tolist(), person, epsilon), rel=1e-5)


def test_center_loss_by_hand_and_as_the_paper_has_it() -> None:
    # centres (0, 0) and (1, 1); images at (3, 4) of person 0 and (1, 2) of person 1: (25 + 1) / 2
    loss = CenterLoss(num_classes=2, embedding_size=2)
    with torch.no_grad():
        loss.centers.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0]]))
    features, person = torch.tensor([[3.0, 4.0], [1.0, 2.0]]), [0, 1]
    assert loss(features, torch.tensor(person)).item() == pytest.approx(13.0)
    assert reference.center_loss(features.tolist(), person, loss.centers.tolist()) == pytest.approx(13.0)


def test_the_centres_move_to_the_mean_of_their_person() -> None:
    loss = CenterLoss(num_classes=3, embedding_size=2)
    untouched = loss.centers[2].detach().clone()
    optimizer = torch.optim.SGD(loss.parameters(), lr=0.5)
    features, person = torch.tensor([[0.0, 0.0], [2.0, 0.0], [5.0, 5.0], [5.0, 7.0]]), torch.tensor([0, 0, 1, 1])
    for _ in range(60):  # each step halves the way: 2 / 4 x 2 images x 0.5; 2^-60 is below float32
        optimizer.zero_grad()
        loss(features, person).backward()
        optimizer.step()
    torch.testing.assert_close(loss.centers[:2].detach(), torch.tensor([[1.0, 0.0], [5.0, 6.0]]))
    assert torch.equal(loss.centers[2], untouched)
