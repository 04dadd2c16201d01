"""The moving average of the weights: against the recurrence, in every step, and wherever the weights are used."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from reid.errors import TrainingError
from reid.model.checkpoint import load_model
from reid.model.embedder import build_embedder
from reid.model.weights import load_pretrained
from reid.stages.evaluate import evaluate
from reid.stages.train import train
from reid.tracking.stage_run import StageRun
from reid.training.averaging import AveragedNetwork
from tests.drawn_persons import small_spec, write_persons
from tests.networks import network_settings
from tests.training.test_lightning import run, training

DECAY = 0.3
"""Below (1 + n) / (10 + n) from the fourth step on, as 5 / 14 is above it."""


def recurrence(states: list[dict[str, torch.Tensor]], decay: float) -> dict[str, torch.Tensor]:
    """The average of the states after 0, 1, 2, ... steps, in float64."""
    average = {name: tensor.double() for name, tensor in states[0].items()}
    for number, state in enumerate(states[1:], start=1):
        share = min(decay, (1 + number) / (10 + number))
        average = {name: share * average[name] + (1 - share) * tensor.double() for name, tensor in state.items()}
    return average


class States(Callback):
    """The network's own tensors before the first step and after each."""

    def __init__(self) -> None:
        self.seen: list[dict[str, torch.Tensor]] = []

    def keep(self, module: pl.LightningModule) -> None:
        self.seen.append({name: tensor.clone() for name, tensor in module.model.state_dict().items()})

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        self.keep(module)

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx) -> None:
        self.keep(module)


def test_the_average_is_the_recurrence_over_the_steps_of_a_training(tmp_path):
    module, states = training(ema_decay=DECAY), States()
    run(module, tmp_path, epochs=6, more=[states])
    wanted, found = recurrence(states.seen, DECAY), module.network.state_dict()
    assert found.keys() == states.seen[0].keys()
    moved = 0
    for name, tensor in found.items():
        if name.endswith("num_batches_tracked"):
            assert tensor == 6  # a count is the network's own
            continue
        torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-5, atol=1e-6)  # float32
        moved += not torch.equal(tensor, states.seen[-1][name])
    assert moved > len(found) / 2  # running statistics too
    assert not module.network.training


def test_without_a_decay_there_is_no_average(tmp_path):
    module = training()
    run(module, tmp_path)
    assert module.network is module.model


def test_a_skipped_step_is_not_averaged_and_does_not_count():
    network = build_embedder(**network_settings())
    average = AveragedNetwork(network, decay=DECAY)
    states = [{name: tensor.clone() for name, tensor in network.state_dict().items()}]
    for taken in (True, False, False, True, True):
        with torch.no_grad():
            for tensor in network.state_dict().values():
                tensor.add_(1)
        average.update(taken=torch.tensor(taken))
        if taken:
            states.append({name: tensor.clone() for name, tensor in network.state_dict().items()})
    wanted = recurrence(states, DECAY)
    for name, tensor in average.network.state_dict().items():
        if tensor.is_floating_point():
            torch.testing.assert_close(tensor.double(), wanted[name], rtol=1e-5, atol=1e-6)
    assert float(average.state_dict()["ema_steps"]) == 3


def test_averaging_equal_weights_leaves_them_as_they_are():
    network = build_embedder(**network_settings())
    average = AveragedNetwork(network, decay=0.999)
    for _ in range(3):
        average.update(taken=None)
    for name, tensor in average.network.state_dict().items():
        assert torch.equal(tensor, network.state_dict()[name]), name


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("averaging")
    write_persons(folder / "data", train=8, test=4)
    return folder


def stage(folder: Path, model: Path, *overrides: str) -> Path:
    """The train stage; the latest checkpoint."""
    train(
        small_spec(folder, *overrides),
        dataset=folder / "data" / "dataset.json",
        model=model,
        report=model / "report.html",
        run=StageRun.none(),
    )
    return model / "reid_model_latest.pth"


@pytest.fixture(scope="module")
def straight(folder: Path) -> Path:
    """Two epochs with averaged weights."""
    return stage(folder, folder / "straight", "train.num_epochs=2", "train.ema_decay=0.9")


def read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(path, weights_only=True)
    return content


@pytest.mark.parametrize("precision", ["32", pytest.param("fp16", marks=pytest.mark.slow)])
def test_a_resumed_training_has_the_same_average_to_the_bit(folder, tmp_path, precision):
    overrides = ["train.ema_decay=0.9", f"train.precision={precision}"]
    whole = read(stage(folder, tmp_path / "whole", "train.num_epochs=2", *overrides))
    stage(folder, tmp_path / "parts", "train.num_epochs=1", *overrides)
    parts = read(stage(folder, tmp_path / "parts", "train.num_epochs=2", *overrides))
    assert whole["ema_steps"] == parts["ema_steps"] > 0
    for entry in ("state_dict", "ema"):
        for name, tensor in whole[entry].items():
            assert torch.equal(tensor, parts[entry][name]), name


def test_validation_and_every_later_use_take_the_averaged_weights(folder, straight, tmp_path):
    content, best = read(straight), read(straight.with_name("reid_model_best.pth"))
    named = {name.removeprefix("model."): tensor for name, tensor in content["ema"].items()}
    assert named.keys() == load_model(straight).network.state_dict().keys()
    assert not torch.equal(named["reduction.weight"], content["state_dict"]["model.reduction.weight"])
    for name, tensor in load_model(straight).network.state_dict().items():
        assert torch.equal(tensor, named[name]), name
    started = build_embedder(**network_settings(feat_dim=32, num_classes=8))
    load_pretrained(started, straight, choice="self", min_share=1.0)
    assert torch.equal(started.reduction.weight, named["reduction.weight"])
    outcome = evaluate(
        small_spec(folder),
        dataset=folder / "data" / "dataset.json",
        model=straight.parent,
        results=tmp_path,
        report=tmp_path / "report.html",
        run=StageRun.none(),
    )
    rows = json.loads((straight.parent / "history.json").read_text())
    assert outcome.metrics["mAP"] == pytest.approx(rows[best["epoch"] + 1]["mAP"], abs=1e-6)
    assert np.isfinite(rows[1]["val_loss"])


def test_a_checkpoint_named_by_the_spec_may_have_another_average_and_is_told(folder, straight, tmp_path, caplog):
    named = f"train.resume_training_checkpoint_path={straight}"
    off = read(stage(folder, tmp_path / "off", "train.num_epochs=3", named))
    assert "ema" not in off
    assert f"{straight}: its averaged weights are left behind, because train.ema_decay is 0" in caplog.messages
    plain = tmp_path / "off" / "reid_model_latest.pth"
    again = [f"train.resume_training_checkpoint_path={plain}", "train.num_epochs=4", "train.ema_decay=0.5"]
    on = read(stage(folder, tmp_path / "on", *again))
    assert f"{plain}: has no averaged weights; the average begins with its weights" in caplog.messages
    assert on["ema_steps"] == read(plain)["global_step"] / 3  # of one epoch
    with pytest.raises(TrainingError) as caught:
        stage(folder, straight.parent, "train.num_epochs=3", "train.ema_decay=0.5")
    assert f"{straight}: a training with other settings: 1 differ\n  first: train.ema_decay: then 0.9, now 0.5" in str(
        caught.value
    )
