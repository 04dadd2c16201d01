"""Learning rates, parameter groups and optimisers."""

import pytest
import timm
import torch
from torch import nn

from reid.errors import SpecError
from reid.training.former_groups import in_todays_groups
from reid.training.schedule import (
    build_optimizer,
    epoch_factor,
    flat_then_cosine,
    parameter_groups,
    warmup,
    warmup_cosine,
    warmup_multistep,
)
from tests import reference_training as reference

RECIPE = {"warmup_factor": 0.01, "warmup_iters": 10, "warmup_method": "linear", "lr_steps": [40, 70], "gamma": 0.1}


def test_the_linear_warm_up_by_hand() -> None:
    # the first epoch counts as 1 of 10: 0.01 x 0.9 + 0.1; the tenth is at the base rate
    assert warmup(0, warmup_factor=0.01, warmup_iters=10, warmup_method="linear") == pytest.approx(0.109)
    assert warmup(8, warmup_factor=0.01, warmup_iters=10, warmup_method="linear") == pytest.approx(0.01 * 0.1 + 0.9)
    assert warmup(9, warmup_factor=0.01, warmup_iters=10, warmup_method="linear") == 1


def test_the_constant_warm_up_stays_at_its_factor() -> None:
    factors = [warmup(epoch, warmup_factor=0.2, warmup_iters=3, warmup_method="constant") for epoch in range(4)]
    assert factors == [0.2, 0.2, 1.0, 1.0]


def test_no_warm_up_begins_at_the_base_rate() -> None:
    assert warmup(0, warmup_factor=0.01, warmup_iters=0, warmup_method="linear") == 1


def test_the_published_recipe_is_luos() -> None:
    for epoch in range(120):
        ours = warmup_multistep(epoch, **RECIPE)  # type: ignore[arg-type]
        assert ours == pytest.approx(reference.luo_warmup_multistep(epoch + 1, 0.01, 10, [40, 70], 0.1)), epoch
    # the 40th epoch is the first at a tenth of the rate
    assert warmup_multistep(38, **RECIPE) == 1  # type: ignore[arg-type]
    assert warmup_multistep(39, **RECIPE) == pytest.approx(0.1)  # type: ignore[arg-type]


# Learning rates of weights and biases in the epochs of a training, read in the optimizer while TAO's own
# CosineLRScheduler ran under Lightning: base_lr 0.0008, bias_lr_factor 2.
SWIN_SAMPLE = [[8e-6, 4.76e-5, 8.72e-5, 1.268e-4, 1.664e-4], [8e-6, 8.76e-5, 1.672e-4, 2.468e-4, 3.264e-4]]
TWELVE_EPOCHS = [
    [8e-6, 2.72e-4, 5.36e-4, 6.8307703e-4, 6.004e-4, 5.0412056e-4, 4.008e-4, 2.9747944e-4, 2.012e-4, 1.1852297e-4,
     5.5082659e-5, 1.5202410e-5],
    [8e-6, 5.3866667e-4, 1.0693333e-3, 1.3659197e-3, 1.2004e-3, 1.0076482e-3, 8.008e-4, 5.9395182e-4, 4.012e-4,
     2.3568026e-4, 1.0867250e-4, 2.8832080e-5],
]  # fmt: skip


@pytest.mark.parametrize(("rates", "warmup_epochs"), [(SWIN_SAMPLE, 20), (TWELVE_EPOCHS, 3)])
def test_the_cosine_is_taos_in_every_epoch_for_weights_and_biases(rates: list[list[float]], warmup_epochs: int) -> None:
    for share, wanted in zip((1.0, 2.0), rates, strict=True):
        factors = [
            warmup_cosine(epoch, share, num_epochs=len(wanted), warmup_epochs=warmup_epochs)
            for epoch in range(len(wanted))
        ]
        assert [8e-4 * share * factor for factor in factors] == pytest.approx(wanted, rel=1e-7)


@pytest.mark.parametrize("first_epoch", [0, 1])
def test_the_cosine_counts_the_first_epoch_as_told(first_epoch: int) -> None:
    for epoch in range(120):
        ours = warmup_cosine(epoch, num_epochs=120, warmup_epochs=20, first_epoch=first_epoch)
        assert ours == pytest.approx(reference.cosine_with_warmup(epoch + first_epoch, 120, 20)), epoch
    assert warmup_cosine(0, num_epochs=120, warmup_epochs=20, first_epoch=1) == pytest.approx(0.01 + 0.99 / 20)
    assert warmup_cosine(0, num_epochs=120, warmup_epochs=0) == 1


def test_the_multi_step_is_taos_in_every_epoch() -> None:
    # TAO's WarmupMultiStepLR, run as above: base_lr 0.00035, steps 5 and 9, ten epochs of warm-up from 0.01
    wanted = [3.815e-5, 7.28e-5, 1.0745e-4, 1.421e-4, 1.7675e-5, 2.114e-5, 2.4605e-5, 2.807e-5, 3.1535e-6, 3.5e-6]
    factors = [warmup_multistep(epoch, **RECIPE | {"lr_steps": [5, 9]}) for epoch in range(10)]  # type: ignore[arg-type]
    assert [3.5e-4 * factor for factor in factors] == pytest.approx(wanted)


@pytest.mark.parametrize(("method", "first"), [("linear", 0.109), ("constant", 0.01), ("cosine", 0.01)])
def test_the_warm_up_method_chooses_the_schedule(method: str, first: float) -> None:
    factor = epoch_factor(
        warmup_method=method,
        warmup_factor=0.01,
        warmup_iters=10,
        warmup_epochs=20,
        first_epoch=0,
        lr_steps=[40],
        gamma=0.1,
        num_epochs=50,
    )
    assert factor(0, 1.0) == pytest.approx(first)
    assert factor(0, 2.0) == pytest.approx(first / 2 if method == "cosine" else first)  # the cosine begins at one rate


def test_an_unknown_warm_up_is_an_error() -> None:
    with pytest.raises(SpecError) as error:
        warmup(0, warmup_factor=0.01, warmup_iters=10, warmup_method="exponential")
    assert str(error.value) == "train.optim.warmup_method: found 'exponential'\n  want: constant, linear or cosine"


def test_weights_and_biases_make_two_groups_and_frozen_parameters_none() -> None:
    module = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2, bias=False))
    module[1].bias.requires_grad_(False)
    groups = parameter_groups(
        module, base_lr=0.1, weight_decay=5e-4, bias_lr_factor=2, weight_decay_bias=1e-4, large_fc_lr=False
    )
    by_name = {group["name"]: group for group in groups}
    assert [id(tensor) for tensor in by_name["weights"]["params"]] == [id(module[i].weight) for i in (0, 1, 2)]
    assert [id(tensor) for tensor in by_name["biases"]["params"]] == [id(module[0].bias)]
    assert (by_name["weights"]["lr"], by_name["weights"]["weight_decay"]) == (0.1, 5e-4)
    assert (by_name["biases"]["lr"], by_name["biases"]["weight_decay"]) == (0.2, 1e-4)


def test_a_name_with_bias_anywhere_in_it_is_a_bias_as_in_tao() -> None:
    """Swin-T has 81 biases and 12 relative_position_bias_table; BNNeck's shift is frozen."""
    with torch.device("meta"):
        names = dict(timm.create_model("swin_tiny_patch4_window7_224").named_parameters())
    module = nn.ParameterDict({name.replace(".", "/"): tensor for name, tensor in names.items()})
    groups = parameter_groups(
        module, base_lr=8e-4, weight_decay=1e-4, bias_lr_factor=2, weight_decay_bias=3e-4, large_fc_lr=False
    )
    tables = {id(tensor) for name, tensor in names.items() if name.endswith("relative_position_bias_table")}
    assert len(tables) == 12
    weights, biases = groups
    assert tables <= {id(tensor) for tensor in biases["params"]}
    assert (biases["lr"], biases["share"], biases["weight_decay"]) == (1.6e-3, 2, 3e-4)
    assert len(biases["params"]) == sum("bias" in name for name in names)
    assert len(weights["params"]) + len(biases["params"]) == len(names)


class WithTable(nn.Module):
    """Two layers and a table, as in Swin's blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(3, 4), nn.Linear(4, 2)
        self.relative_position_bias_table = nn.Parameter(torch.ones(2))

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        return self.two(self.one(values)) + self.relative_position_bias_table


def test_the_state_of_an_older_training_finds_its_tensors_in_todays_groups(caplog: pytest.LogCaptureFixture) -> None:
    torch.manual_seed(0)
    module = WithTable()
    today = parameter_groups(
        module, base_lr=0.1, weight_decay=0, bias_lr_factor=2, weight_decay_bias=0, large_fc_lr=False
    )
    named = dict(module.named_parameters())
    then = [
        {"name": "weights", "params": [tensor for name, tensor in named.items() if not name.endswith("bias")]},
        {"name": "biases", "params": [tensor for name, tensor in named.items() if name.endswith("bias")]},
    ]
    older, newer = build_optimizer("Adam", then, 0.9), build_optimizer("Adam", today, 0.9)
    module(torch.ones(1, 3)).square().sum().backward()
    older.step()
    newer.load_state_dict(in_todays_groups(older.state_dict(), newer.param_groups, module))
    for name, tensor in named.items():
        assert torch.equal(newer.state[tensor]["exp_avg"], older.state[tensor]["exp_avg"]), name
    assert caplog.messages == [
        "the checkpoint is of a version in which only a name that ends in bias was a bias: "
        "relative_position_bias_table counts as one now"
    ]
    assert in_todays_groups(newer.state_dict(), newer.param_groups, module) == newer.state_dict()


def test_a_module_without_biases_makes_one_group() -> None:
    groups = parameter_groups(
        nn.Linear(3, 4, bias=False),
        base_lr=0.1,
        weight_decay=0,
        bias_lr_factor=1,
        weight_decay_bias=0,
        large_fc_lr=False,
    )
    assert [group["name"] for group in groups] == ["weights"]


def test_the_classifier_may_learn_at_twice_the_rate_as_in_tao() -> None:
    module = nn.ModuleDict({"base": nn.Linear(3, 4), "classifier": nn.Linear(4, 2)})
    values = {"base_lr": 0.1, "weight_decay": 0.01, "bias_lr_factor": 5, "weight_decay_bias": 0.02}
    found = parameter_groups(module, **values, large_fc_lr=True)
    assert [(group["name"], group["lr"], group["weight_decay"], len(group["params"])) for group in found] == [
        ("weights", 0.1, 0.01, 1),
        ("biases", 0.5, 0.02, 1),
        ("classifier weights", 0.2, 0.01, 1),
        ("classifier biases", 0.2, 0.02, 1),
    ]
    assert found[2]["params"][0] is module["classifier"].weight


@pytest.mark.parametrize("name", ["Adam", "AdamW", "SGD", "RMSprop", "NAdam", "Adagrad", "RAdam"])
def test_an_optimizer_of_torch_is_found_by_name_and_steps(name: str) -> None:
    module = nn.Linear(3, 2)
    groups = parameter_groups(
        module, base_lr=0.1, weight_decay=0, bias_lr_factor=2, weight_decay_bias=0, large_fc_lr=False
    )
    optimizer = build_optimizer(name, groups, 0.8)
    assert type(optimizer) is getattr(torch.optim, name)
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    assert optimizer.defaults.get("momentum", 0.8) == 0.8
    before = module.weight.detach().clone()
    module(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()
    assert not torch.equal(module.weight, before)


def test_an_unknown_optimizer_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(SpecError) as error:
        build_optimizer("adamv", [{"params": [nn.Parameter(torch.zeros(1))]}], 0.9)
    first, second = str(error.value).splitlines()
    assert first == "train.optim.name: torch.optim has no optimizer 'adamv'; did you mean Adam?"
    assert second.startswith("  want: one of ASGD, Adadelta, Adafactor, Adagrad, Adam, AdamW, ")


def test_an_optimizer_that_needs_the_loss_again_is_refused() -> None:
    with pytest.raises(SpecError) as error:
        build_optimizer("LBFGS", [{"params": [nn.Parameter(torch.zeros(1))]}], 0.9)
    assert str(error.value) == (
        "train.optim.name: LBFGS cannot train this network: "
        "it takes one parameter group and calls the loss several times a step"
    )


SBS = {"warmup_factor": 0.1, "warmup_iters": 10, "warmup_method": "linear", "flat_epochs": 30, "num_epochs": 60}
"""fast-reid's SBS on Market-1501: 2,000 steps of warm-up are 10 epochs; 7e-7 of 3.5e-4."""


def fast_reids_rates(*, base_lr: float, floor: float, delay: int, warmup: int, epochs: int) -> list[float]:
    """The learning rate of each epoch: torch's scheduler takes a step after every epoch later than the delay's last."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=base_lr)
    falling = max(delay, warmup)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=epochs - falling, eta_min=floor)
    rates = []
    for epoch in range(epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        if epoch + 1 > falling:
            scheduler.step()
    return rates


@pytest.mark.parametrize(("delay", "warmup_iters"), [(30, 10), (20, 10), (15, 0)])
def test_the_flat_cosine_is_fast_reids_in_every_epoch_after_the_warm_up(delay: int, warmup_iters: int) -> None:
    wanted = fast_reids_rates(base_lr=3.5e-4, floor=7e-7, delay=delay, warmup=warmup_iters, epochs=60)
    values = SBS | {"flat_epochs": delay, "warmup_iters": warmup_iters}
    found = [3.5e-4 * flat_then_cosine(epoch, lr_floor=0.002, **values) for epoch in range(60)]
    start = max(warmup_iters - 1, 0)
    assert found[start:] == pytest.approx(wanted[start:], rel=1e-9)  # theirs is a recursion
    assert min(found[start:]) == found[-1] > 7e-7  # the floor is met at the end of the last epoch


def test_the_flat_cosine_ends_at_one_rate_in_all_groups_as_torchs() -> None:
    wanted = fast_reids_rates(base_lr=7e-4, floor=7e-7, delay=30, warmup=10, epochs=60)  # twice base_lr
    found = [7e-4 * flat_then_cosine(epoch, 2.0, lr_floor=0.002, **SBS) for epoch in range(60)]
    assert found[9:] == pytest.approx(wanted[9:], rel=1e-9)


def test_the_flat_cosine_warms_up_as_the_other_schedules_do_and_stays_flat_in_short_trainings() -> None:
    warming = [flat_then_cosine(epoch, lr_floor=0.002, **SBS) for epoch in range(12)]
    assert warming[:9] == pytest.approx([0.1 + 0.9 * (epoch + 1) / 10 for epoch in range(9)])
    assert warming[9:] == [1.0] * 3
    assert [flat_then_cosine(epoch, lr_floor=0.5, **SBS | {"num_epochs": 3}) for epoch in (29, 40)] == [1.0, 0.5]
