"""The identity losses on cosines, against the papers' formulas in plain float64."""

import math

import pytest
import torch
from torch.nn import functional as F

from reid.model.embedder import build_embedder
from reid.training.losses import MARGIN_LOSSES, ArcFace, CircleSoftmax, CosFace
from tests.networks import network_settings

MARGIN, SCALE = 0.5, 30.0


def arcface(cosine: float, is_label: bool, margin: float) -> float:
    """Deng 2019: the angle is widened by the margin; past pi - m it would come back, so the cosine falls instead."""
    if not is_label:
        return cosine
    angle = math.acos(cosine)
    return math.cos(angle + margin) if angle < math.pi - margin else cosine - margin * math.sin(margin)


def cosface(cosine: float, is_label: bool, margin: float) -> float:
    """Wang 2018."""
    return cosine - margin * is_label


def circle(cosine: float, is_label: bool, margin: float) -> float:
    """Sun 2020: optima 1 + m and -m, class margins 1 - m and m."""
    if is_label:
        return max(1 + margin - cosine, 0) * (cosine - (1 - margin))
    return max(cosine + margin, 0) * (cosine - margin)


FORMULAS = {"arcface": arcface, "cosface": cosface, "amsoftmax": cosface, "circle": circle}


def smoothed_cross_entropy(logits: list[float], label: int, epsilon: float) -> float:
    """-sum q log softmax with q = (1 - epsilon) one-hot + epsilon / P."""
    total = math.log(sum(math.exp(value) for value in logits))
    target = [epsilon / len(logits) + (1 - epsilon) * (index == label) for index in range(len(logits))]
    return sum(share * (total - value) for share, value in zip(target, logits))


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize(("margin", "scale", "epsilon"), [(0.5, 30.0, 0.0), (0.35, 64.0, 0.1), (0.0, 1.0, 0.1)])
def test_a_loss_is_the_papers_with_label_smoothing_on_its_logits(kind, margin, scale, epsilon):
    generator = torch.Generator().manual_seed(3)
    cosine = torch.rand(9, 5, generator=generator) * 2 - 1
    cosine[0, 0] = -0.999  # of a label past pi - m
    person = torch.arange(9) % 5
    wanted = []
    for row, label in zip(cosine.tolist(), person.tolist()):
        logits = [scale * FORMULAS[kind](value, index == label, margin) for index, value in enumerate(row)]
        wanted.append(smoothed_cross_entropy(logits, label, epsilon))
    loss = MARGIN_LOSSES[kind](margin=margin, scale=scale, epsilon=epsilon)
    assert loss(cosine, person).item() == pytest.approx(sum(wanted) / 9, rel=1e-5)  # float32


@pytest.mark.parametrize("kind", FORMULAS)
def test_without_a_margin_the_angular_losses_are_a_scaled_softmax_and_the_label_pays_for_a_margin(kind):
    cosine, person = torch.tensor([[0.9, 0.2, -0.4], [0.1, 0.8, 0.3]]), torch.tensor([0, 1])
    free, strict = (MARGIN_LOSSES[kind](margin=margin, scale=SCALE, epsilon=0.0) for margin in (0.0, MARGIN))
    if kind != "circle":
        assert free(cosine, person).item() == pytest.approx(F.cross_entropy(SCALE * cosine, person).item(), rel=1e-4)
        assert strict(cosine, person) > free(cosine, person)


@pytest.mark.parametrize("kind", FORMULAS)
@pytest.mark.parametrize("end", [1.0, -1.0, 1.0000001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gradients_are_finite_at_the_ends_of_the_cosine(kind, end, dtype):
    cosine = torch.full((2, 3), end, dtype=dtype, requires_grad=True)
    loss = MARGIN_LOSSES[kind](margin=MARGIN, scale=SCALE, epsilon=0.1)(cosine, torch.tensor([0, 2]))
    loss.backward()
    assert loss.dtype == torch.float32
    assert loss.isfinite()
    assert cosine.grad.isfinite().all()


def test_arcface_falls_monotonically_with_the_angle_and_its_slope_is_the_formulas():
    angle = torch.linspace(0.05, 3.1, 200, dtype=torch.float64)
    cosine = angle.cos()[:, None].requires_grad_()
    logits = ArcFace(margin=MARGIN, scale=1.0, epsilon=0.0).logits(cosine, torch.zeros(200, dtype=torch.int64))
    assert (logits.diff(dim=0) < 0).all()
    (slope,) = torch.autograd.grad(logits.sum(), cosine)
    inside = angle < math.pi - MARGIN
    # d cos(t + m) / d cos t = sin(t + m) / sin t
    wanted = torch.where(inside, (angle + MARGIN).sin() / angle.sin(), 1.0)
    torch.testing.assert_close(slope[:, 0], wanted)


def test_the_factors_of_circle_have_no_gradient():
    cosine = torch.tensor([[0.6, 0.1]], dtype=torch.float64, requires_grad=True)
    logits = CircleSoftmax(margin=0.25, scale=1.0, epsilon=0.0).logits(cosine, torch.tensor([0]))
    (slope,) = torch.autograd.grad(logits.sum(), cosine)
    assert slope.tolist() == [[pytest.approx(1.25 - 0.6), pytest.approx(0.1 + 0.25)]]


@pytest.mark.parametrize("neck", ["bnneck", ""])
def test_the_classifier_gives_cosines_in_float32_whatever_the_lengths_and_the_precision(neck):
    torch.manual_seed(0)
    network = build_embedder(**network_settings(id_loss_type="arcface", neck=neck)).train()
    images = torch.randn(4, 3, 64, 32)
    assert list(dict(network.classifier.named_parameters())) == ["weight"]
    with torch.autocast("cpu", torch.bfloat16):
        features, cosines = network(images)
    assert cosines.dtype == torch.float32
    with torch.no_grad():
        network.classifier.weight.mul_(7)
    again = network._classified(features)
    torch.testing.assert_close(again, cosines, rtol=1e-3, atol=1e-4)
    inner, rows = network.bottleneck(features.detach()), network.classifier.weight
    wanted = (inner @ rows.T) / (inner.norm(dim=1)[:, None] * rows.norm(dim=1))
    torch.testing.assert_close(again, wanted)
    assert cosines.abs().max() <= 1.00001


def test_amsoftmax_is_cosface():
    assert MARGIN_LOSSES["amsoftmax"] is MARGIN_LOSSES["cosface"] is CosFace
