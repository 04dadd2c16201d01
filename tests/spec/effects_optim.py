"""What each field of the spec's section `train.optim` does: read off the history and the optimizer's own groups."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

from reid.errors import SpecError
from reid.spec.idle import MOMENTUM_READERS
from tests.spec.lab import Lab, Trained

BASE_LR = 0.003


def _rates(lab: Lab, *overrides: str) -> list[float]:
    """The learning rates that the optimizer had in four epochs, as shares of base_lr."""
    return [weights / BASE_LR for weights, _ in lab.fit("train.num_epochs=4", *overrides).rates]


def _shares(*wanted: float) -> object:
    return pytest.approx(list(wanted), rel=1e-6)


def name(lab: Lab) -> None:
    kinds = [lab.module(f"train.optim.name={kind}").configure_optimizers() for kind in ("AdamW", "SGD")]
    assert [type(kind) for kind in kinds] == [torch.optim.AdamW, torch.optim.SGD]


def lr_scheduler(lab: Lab) -> None:
    factors = []
    for scheduler in ("MultiStep", "AutoReduce"):
        module = lab.module(f"train.optim.lr_scheduler={scheduler}", "train.optim.gamma=0.5")
        for _ in range(12):
            module.after_epoch(train_loss=1.0, val_loss=1.0)
        factors.append(module.learning_rate_at(11))
    assert factors == [1.0, 0.5]


COSINE = "train.optim.lr_scheduler=Cosine"


def flat_epochs(lab: Lab) -> None:
    # of 4 epochs 1 or 2 are flat: then (1 + cos(pi t / 3)) / 2 or (1 + cos(pi t / 2)) / 2, from the epoch after them on
    floor = "train.optim.lr_floor=0"
    assert _rates(lab, COSINE, floor, "train.optim.flat_epochs=1") == _shares(1, 1, 0.75, 0.25)
    assert _rates(lab, COSINE, floor, "train.optim.flat_epochs=2") == _shares(1, 1, 1, 0.5)
    assert lab.warnings("train.optim.flat_epochs=2") == [
        "spec: train.optim.flat_epochs has no effect: only train.optim.lr_scheduler = Cosine reads it"
    ]
    short = "train.optim.warmup_iters=0"
    assert lab.warnings(COSINE, short, "train.optim.lr_steps=[3]", "train.optim.gamma=0.5") == [
        f"spec: train.optim.{name} has no effect: train.optim.lr_scheduler = Cosine does not read it"
        for name in ("lr_steps", "gamma")
    ]
    with pytest.raises(SpecError) as caught:
        lab.spec(COSINE, "train.optim.warmup_method=cosine")
    assert str(caught.value) == (
        "command line: train.optim.warmup_method: 'cosine' is a whole schedule, and train.optim.lr_scheduler = Cosine "
        "another; want 'linear' or 'constant', or the scheduler MultiStep"
    )


def lr_floor(lab: Lab) -> None:
    flat = "train.optim.flat_epochs=2"
    assert _rates(lab, COSINE, flat, "train.optim.lr_floor=0.5") == _shares(1, 1, 1, 0.75)
    assert lab.warnings(
        COSINE, flat, "train.num_epochs=2", "train.optim.warmup_iters=0", "train.optim.lr_floor=0.5"
    ) == [
        f"spec: train.optim.{name} has no effect: {why}"
        for why in ["the learning rate would fall from epoch 4 on, and train.num_epochs = 2"]
        for name in ("lr_scheduler", "lr_floor")
    ]


def lr_monitor(lab: Lab) -> None:
    factors = []
    for monitor in ("val_loss", "train_loss"):
        module = lab.module("train.optim.lr_scheduler=AutoReduce", f"train.optim.lr_monitor={monitor}")
        for epoch in range(12):
            module.after_epoch(train_loss=1.0, val_loss=1 / (epoch + 1))
        factors.append(module.learning_rate_at(11))
    assert factors == [1.0, pytest.approx(0.1)]
    assert lab.warnings("train.optim.lr_monitor=train_loss") == [
        "spec: train.optim.lr_monitor has no effect: only train.optim.lr_scheduler = AutoReduce watches it"
    ]


def lr_steps(lab: Lab) -> None:
    assert _rates(lab) == _shares(1, 1, 1, 1)
    assert _rates(lab, "train.optim.lr_steps=[2,4]") == _shares(1, 0.1, 0.1, 0.01)
    assert lab.warnings("train.optim.lr_steps=[3]", "train.optim.lr_scheduler=AutoReduce") == [
        "spec: train.optim.lr_steps has no effect: "
        "train.optim.lr_scheduler = AutoReduce watches train.optim.lr_monitor instead"
    ]


def gamma(lab: Lab) -> None:
    assert _rates(lab, "train.optim.lr_steps=[2,4]", "train.optim.gamma=0.5") == _shares(1, 0.5, 0.5, 0.25)
    assert lab.warnings("train.optim.lr_steps=[]", "train.optim.gamma=0.5") == [
        "spec: train.optim.gamma has no effect: train.optim.lr_steps is empty"
    ]
    cosine = ["train.optim.warmup_method=cosine", "train.optim.gamma=0.5"]
    assert lab.warnings(*cosine) == ["spec: train.optim.gamma has no effect: the cosine schedule does not read it"]
    assert lab.warnings(*cosine, "train.optim.lr_scheduler=AutoReduce") == []


def _grouped(lab: Lab) -> Trained:
    """A training with every figure of the optimizer's groups changed."""
    figures = ["base_lr=0.002", "bias_lr_factor=3.0", "weight_decay=0.02", "weight_decay_bias=0.04", "momentum=0.7"]
    return lab.train("train.optim.name=SGD", *(f"train.optim.{figure}" for figure in figures))


def _groups(key: str, wanted: Sequence[float]) -> Callable[[Lab], None]:
    """The figure of the weights' group and of the biases' group, as the optimizer of a training really had them."""

    def check(lab: Lab) -> None:
        assert [group[key] for group in _grouped(lab).groups] == pytest.approx(list(wanted))

    return check


def layer_decay(lab: Lab) -> None:
    chosen = ["model.backbone=timm/test_vit", "train.optim.layer_decay=0.5", "train.optim.bias_lr_factor=2.0"]
    groups = lab.module(*chosen).configure_optimizers().param_groups
    rates = {group["name"]: group["lr"] / BASE_LR for group in groups}
    assert len(rates) == 16
    for layer in range(8):
        assert rates[f"weights of layer {layer}"] == pytest.approx(0.5 ** (7 - layer))
        assert rates[f"biases of layer {layer}"] == pytest.approx(2 * 0.5 ** (7 - layer))
    assert len(lab.module("model.backbone=timm/test_vit").configure_optimizers().param_groups) == 2
    assert lab.warnings("train.optim.layer_decay=0.5") == [
        "spec: train.optim.layer_decay has no effect: only ViT reads it"
    ]
    assert lab.warnings(*chosen) == []


def momentum(lab: Lab) -> None:
    _groups("momentum", [0.7, 0.7])(lab)
    for kind in ("Adam", "SGD", "RMSprop", "Adamax"):
        warned = lab.warnings(f"train.optim.name={kind}", "train.optim.momentum=0.7")
        why = f"spec: train.optim.momentum has no effect: {kind} has no momentum of this kind"
        assert warned == ([] if kind in MOMENTUM_READERS else [why])
        groups = lab.module(f"train.optim.name={kind}", "train.optim.momentum=0.7").configure_optimizers().param_groups
        assert (groups[0].get("momentum") == 0.7) is (kind in MOMENTUM_READERS)


def warmup_factor(lab: Lab) -> None:
    # linear: f (1 - e / 4) + e / 4 in epochs 1..4
    for factor, wanted in ((0.01, 0.2575), (0.5, 0.625)):
        rates = _rates(lab, "train.optim.warmup_iters=4", f"train.optim.warmup_factor={factor}")
        assert rates == _shares(wanted, factor / 2 + 0.5, factor / 4 + 0.75, 1)
    assert lab.warnings("train.optim.warmup_iters=0", "train.optim.warmup_factor=0.5") == [
        "spec: train.optim.warmup_factor has no effect: train.optim.warmup_iters = 0 is no warm-up"
    ]


def warmup_iters(lab: Lab) -> None:
    assert _rates(lab, "train.optim.warmup_iters=2") == _shares(0.505, 1, 1, 1)


def warmup_epochs(lab: Lab) -> None:
    # cosine over 4 epochs: 0.002 + 0.998 (1 + cos(pi e / 4)) / 2; below warmup_epochs 0.01 + 0.99 e / warmup_epochs
    cosine = ["train.optim.warmup_method=cosine", "train.optim.warmup_iters=10"]
    wanted = [0.01, 0.853846, 0.501, 0.148154]
    assert _rates(lab, *cosine, "train.optim.warmup_epochs=1") == pytest.approx(wanted, abs=1e-6)
    assert _rates(lab, *cosine, "train.optim.warmup_epochs=3") == pytest.approx([0.01, 0.34, 0.67, 0.148154], abs=1e-6)
    assert lab.warnings("train.optim.warmup_epochs=3") == [
        "spec: train.optim.warmup_epochs has no effect: only train.optim.warmup_method = cosine reads it"
    ]


def cosine_first_epoch(lab: Lab) -> None:
    cosine = ["train.optim.warmup_method=cosine", "train.optim.warmup_epochs=1"]
    ahead = _rates(lab, *cosine, "train.optim.cosine_first_epoch=1")
    assert ahead == pytest.approx([0.853846, 0.501, 0.148154, 0.002], abs=1e-6)
    assert lab.warnings("train.optim.cosine_first_epoch=1") == [
        "spec: train.optim.cosine_first_epoch has no effect: only train.optim.warmup_method = cosine reads it"
    ]


def warmup_method(lab: Lab) -> None:
    wanted = {"linear": 0.505, "constant": 0.01, "cosine": 0.01}
    for method, first in wanted.items():
        warmup = [] if method == "cosine" else ["train.optim.warmup_iters=2"]
        assert _rates(lab, f"train.optim.warmup_method={method}", *warmup)[0] == pytest.approx(first)


def center_loss_weight(lab: Lab) -> None:
    for weight in (5e-4, 0.01):
        step = lab.fit("model.with_center_loss=true", f"train.optim.center_loss_weight={weight}").steps[0]
        parts = step["cross_entropy"] + step["triplet"] + weight * step["center"]
        assert step["loss"] == pytest.approx(parts, rel=1e-5)
    assert lab.warnings("train.optim.center_loss_weight=0.1") == [
        "spec: train.optim.center_loss_weight has no effect: the centre loss is off"
    ]


def center_lr(lab: Lab) -> None:
    # at rate 1e-30 the centres stay where they are drawn; a step of rate r moves them by 2 r (centre - feature) / B
    rates = (1e-30, 0.001, 0.002)
    modules = [lab.fit("model.with_center_loss=true", f"train.optim.center_lr={rate}").module for rate in rates]
    centres = [module.losses.get_parameter("center.centers").detach() for module in modules]
    small, double = (float((moved - centres[0]).norm()) for moved in centres[1:])
    assert small > 1e-4
    assert double == pytest.approx(2 * small, rel=0.01)
    assert lab.warnings("train.optim.center_lr=0.1") == [
        "spec: train.optim.center_lr has no effect: the centre loss is off"
    ]


def triplet_loss_margin(lab: Lab) -> None:
    # persons 0 at 0 and 1, 1 at 3 and 7, on the first axis. Anchors 0, 1 are safe below a margin of 1; anchor 3 pays
    # 4 - 2 + m, anchor 7 nothing: 4 - 6 + m < 0
    features = torch.zeros(4, 8)
    features[:, 0] = torch.tensor([0.0, 1, 3, 7])
    for margin in (0.3, 0.5):
        loss = lab.module(f"train.optim.triplet_loss_margin={margin}").losses["triplet"]
        assert loss(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx((2 + margin) / 4)
    softmax = [
        lab.train("dataset.sampler=softmax", f"train.optim.triplet_loss_margin={margin}").epochs[0]["val_loss"]
        for margin in (0.3, 50)
    ]
    assert softmax[1] > softmax[0] + 40  # the margin of val_loss, too
    assert lab.warnings("dataset.sampler=softmax", "train.optim.triplet_loss_margin=0.5") == []


def soft_margin(lab: Lab) -> None:
    # person 0 at 0 and 1, person 1 at 5 and 6: ln(1 + exp(1 - 5)) at the outer ends, ln(1 + exp(1 - 4)) at the inner
    features = torch.zeros(4, 8)
    features[:, 0] = torch.tensor([0.0, 1, 5, 6])
    loss = lab.module("train.optim.soft_margin=true").losses["triplet"]
    wanted = (2 * math.log(1 + math.exp(1 - 5)) + 2 * math.log(1 + math.exp(1 - 4))) / 4
    assert loss(features, torch.tensor([0, 0, 1, 1])).item() == pytest.approx(wanted)
    assert lab.warnings("train.optim.soft_margin=true", "dataset.sampler=softmax") == [
        "spec: train.optim.soft_margin has no effect: the triplet loss is off"
    ]


def trp_l2(lab: Lab) -> None:
    """Longer features change the triplet loss, but not that of features of length 1."""
    features, label = torch.randn(8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(8) // 2
    for value, same in (("true", True), ("false", False)):
        module = lab.module(f"train.optim.trp_l2={value}")
        losses = [module.compute_losses(scale * features, torch.zeros(8, 4), label)["triplet"] for scale in (1, 9)]
        assert bool(torch.isclose(*losses)) is same
    rows = [lab.train(f"train.optim.trp_l2={value}").epochs[0]["val_loss"] for value in ("true", "false")]
    assert rows[0] < 0.3 + 2 < rows[1] + 2  # no two points of a unit sphere are farther apart than 2


def _on_cosines(field: str, changed: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        first = [
            lab.fit("model.id_loss_type=cosface", *more).steps[0]["cross_entropy"]
            for more in ([], [f"train.optim.{field}={changed}"])
        ]
        assert first[0] != pytest.approx(first[1], rel=0.1)
        assert lab.warnings(f"train.optim.{field}={changed}") == [
            f"spec: train.optim.{field} has no effect: only an identity loss on cosines reads it (model.id_loss_type)"
        ]

    return check


def large_fc_lr(lab: Lab) -> None:
    groups = lab.module("train.optim.large_fc_lr=true").configure_optimizers().param_groups
    assert [group["lr"] for group in groups] == pytest.approx([BASE_LR, BASE_LR, 2 * BASE_LR])
    assert len(lab.module().configure_optimizers().param_groups) == 2
    assert lab.warnings("train.optim.large_fc_lr=true", "dataset.sampler=triplet") == [
        "spec: train.optim.large_fc_lr has no effect: dataset.sampler = triplet uses no classifier"
    ]


OPTIM: dict[str, Callable[[Lab], None]] = {
    f"train.optim.{field}": check
    for field, check in {
        "name": name,
        "lr_scheduler": lr_scheduler,
        "flat_epochs": flat_epochs,
        "lr_floor": lr_floor,
        "lr_monitor": lr_monitor,
        "lr_steps": lr_steps,
        "gamma": gamma,
        "bias_lr_factor": _groups("lr", [0.002, 0.006]),
        "weight_decay": _groups("weight_decay", [0.02, 0.04]),
        "weight_decay_bias": _groups("weight_decay", [0.02, 0.04]),
        "layer_decay": layer_decay,
        "warmup_factor": warmup_factor,
        "warmup_iters": warmup_iters,
        "warmup_epochs": warmup_epochs,
        "warmup_method": warmup_method,
        "cosine_first_epoch": cosine_first_epoch,
        "base_lr": _groups("initial_lr", [0.002, 0.006]),
        "momentum": momentum,
        "center_loss_weight": center_loss_weight,
        "center_lr": center_lr,
        "triplet_loss_margin": triplet_loss_margin,
        "soft_margin": soft_margin,
        "trp_l2": trp_l2,
        "cosine_margin": _on_cosines("cosine_margin", "0.1"),
        "cosine_scale": _on_cosines("cosine_scale", "5"),
        "large_fc_lr": large_fc_lr,
    }.items()
}
