"""The frozen phase: the backbone stays to the bit, then learns; on one device, compiled, and resumed."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import Callback

from reid.training.lightning import Training
from reid.training.schedule import build_optimizer, parameter_groups
from tests.training.test_averaging import folder, read, stage
from tests.training.test_lightning import run, training

__all__ = ["folder"]


def with_momentum(**changes: Any) -> Training:
    """SGD with all that moves a weight without a gradient: decay and momentum."""

    def optimizer(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module, base_lr=0.01, weight_decay=0.1, bias_lr_factor=2.0, weight_decay_bias=0.1, large_fc_lr=False
        )
        return build_optimizer("SGD", groups, 0.9)

    return training(optimizer=optimizer, **changes)


class Epochs(Callback):
    """The network's tensors after each epoch, and how many parameters had momentum."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []
        self.with_state: list[int] = []
        self.modes: list[bool] = []

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.modes.append(module.model.base.training)

    def on_train_epoch_end(self, trainer, module) -> None:
        self.seen.append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})
        self.with_state.append(len(trainer.optimizers[0].state))


def moved(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor], prefix: str) -> bool:
    return not all(torch.equal(after[name], tensor) for name, tensor in before.items() if name.startswith(prefix))


def test_the_backbone_stays_to_the_bit_and_then_learns(tmp_path):
    module, epochs = with_momentum(freeze_epochs=2), Epochs()
    first = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    run(module, tmp_path, epochs=4, more=[epochs])
    assert [moved(first, seen, "base.") for seen in epochs.seen] == [False, False, True, True]
    assert [moved(first, seen, "bottleneck.running") for seen in epochs.seen] == [True] * 4
    assert all(moved(first, seen, part) for seen in epochs.seen for part in ("reduction.", "classifier."))
    assert epochs.modes == [False, False, True, True]
    assert epochs.with_state[0] == epochs.with_state[1] == 4  # reduction (2), bottleneck and classifier
    assert epochs.with_state[2] == len([p for p in module.model.parameters() if p.requires_grad])


def test_frozen_steps_record_no_graph_in_the_backbone(tmp_path):
    recorded = []

    class Sees(Callback):
        def on_train_start(self, trainer, module) -> None:
            module.model.base.register_forward_hook(lambda *parts: None)
            module.model.reduction.register_forward_pre_hook(lambda _, values: recorded.append(values[0].requires_grad))

    run(with_momentum(freeze_epochs=1), tmp_path, epochs=2, more=[Sees()])
    assert recorded == [False, True]


@pytest.mark.slow
def test_a_compiled_network_freezes_and_learns_as_it_does_uncompiled(tmp_path):
    states = []
    for compiled in (False, True):
        module = with_momentum(freeze_epochs=1)
        if compiled:
            module.model.compile(backend="aot_eager")
        run(module, tmp_path, epochs=2)
        states.append(module.model.state_dict())
    for name, tensor in states[0].items():
        torch.testing.assert_close(states[1][name], tensor, rtol=1e-4, atol=1e-5, msg=name)


def test_with_an_average_the_frozen_backbone_stays_in_it_to_the_bit(tmp_path):
    module = with_momentum(freeze_epochs=2, ema_decay=0.5)
    first = {name: tensor.clone() for name, tensor in module.model.state_dict().items()}
    run(module, tmp_path, epochs=2)
    assert not moved(first, module.network.state_dict(), "base.")
    assert moved(first, module.network.state_dict(), "reduction.")


@pytest.mark.parametrize("first", [1, 2], ids=["in the frozen phase", "at its end"])
def test_a_resumed_training_ends_with_the_same_weights(folder: Path, tmp_path: Path, first: int) -> None:
    overrides = ["train.freeze_epochs=2", "train.checkpoint_minutes=0"]
    stage(folder, tmp_path, f"train.num_epochs={first}", *overrides)
    parts = read(stage(folder, tmp_path, "train.num_epochs=4", *overrides))
    whole = read(stage(folder, folder / "frozen", "train.num_epochs=4", *overrides))
    for name, tensor in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], tensor), name
