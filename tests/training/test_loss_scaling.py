"""Training in fp16 on the CPU, with torch's own GradScaler."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback

from reid.distributed.devices import ComputePlan
from reid.distributed.ranks import SINGLE_PROCESS
from reid.errors import TrainingError
from reid.tracking.stage_run import StageRun
from reid.training import monitor
from reid.training.lightning import Training
from reid.training.loss_scaling import scaling_of
from reid.training.monitor import StepMonitor
from reid.training.resume import DurableCheckpoints, Start, read_training_checkpoint
from reid.training.trainer import fit, seed_everything
from tests.plain_data import plain_data
from tests.training.test_lightning import Seen, losses, training

STEPS = 3
"""Steps of an epoch."""


def run(
    module: Training,
    folder: Path,
    *,
    precision: str = "16-mixed",
    epochs: int = 2,
    start: Start | None = None,
    more: Sequence[Callback] = (),
) -> Seen:
    """Epochs of three steps: 5 persons of 4 noise images, 2 of each of 4 persons in a batch."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 32, 16, 3), np.uint8)
    data = plain_data(pixels, np.repeat(np.arange(5), 4), batch_size=8, num_instances=2)
    seen = Seen()
    fit(
        module,
        data,
        callbacks=[seen, *more],
        plan=ComputePlan(("cpu",), precision),
        checkpoints=DurableCheckpoints(),
        epochs=epochs,
        start=start,
        folder=folder,
    )
    return seen


def monitor_of(folder: Path) -> StepMonitor:
    files = [f"{number}.jpg" for number in range(20)]
    return StepMonitor(
        folder,
        epochs=2,
        steps=lambda _epoch: STEPS,
        batch_size=8,
        files=files,
        ranks=SINGLE_PROCESS,
        run=StageRun.none(),
    )


@pytest.fixture
def first_scale(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets the scale to begin with, and after how many good steps it is doubled."""

    def choose(scale: float, growth_interval: int = 2000) -> None:
        kind = partial(torch.amp.GradScaler, init_scale=scale, growth_interval=growth_interval)
        monkeypatch.setattr("reid.training.loss_scaling.torch.amp.GradScaler", kind)

    return choose


def test_a_step_in_fp16_is_a_step_in_float32_up_to_rounding(tmp_path: Path, first_scale: Callable[..., None]) -> None:
    first_scale(1024.0)
    moved = []
    for precision in ("32-true", "16-mixed"):
        seed_everything(0)  # the centres are drawn before the network
        module = training(losses(with_center_loss=True), clip_grad_norm=0.5)
        before = {name: tensor.detach().clone() for name, tensor in module.named_parameters()}
        seen = run(module, tmp_path, precision=precision, epochs=1)
        assert seen.steps[0]["gradient_norm"] > 0.5  # so the clipping is at work
        moved.append({name: tensor.detach() - before[name] for name, tensor in module.named_parameters()})
    assert moved[1]["losses.center.centers"].abs().max() > 1e-3
    for name in ("losses.center.centers", "model.reduction.weight", "model.classifier.weight"):
        exact, halved = moved[0][name], moved[1][name]
        # 11 bits a number, three steps
        assert (halved - exact).norm() < 0.1 * exact.norm(), name


class Positions(Callback):
    """The scale, the centres and a weight after each step."""

    def __init__(self) -> None:
        self.seen: list[tuple[float, torch.Tensor, torch.Tensor]] = []

    def on_train_batch_end(self, trainer: pl.Trainer, module: pl.LightningModule, *_: Any) -> None:
        scaling = scaling_of(trainer)
        assert scaling
        weights = (module.losses.center.centers, module.model.classifier.weight)
        self.seen.append((scaling.scaler.get_scale(), *(tensor.detach().clone() for tensor in weights)))


def test_a_step_whose_gradient_overflows_is_skipped_and_no_error(
    tmp_path: Path, first_scale: Callable[..., None]
) -> None:
    first_scale(2.0**18)
    module, positions, steps = training(losses(with_center_loss=True)), Positions(), monitor_of(tmp_path)
    first = [module.losses.center.centers.detach().clone(), module.model.classifier.weight.detach().clone()]
    seen = run(module, tmp_path, epochs=3, more=[positions, steps])
    skipped = [step["skipped_steps"] for step in seen.steps]
    assert 1 <= sum(skipped) < len(skipped)
    assert skipped[0] == 1 and skipped[-1] == 0
    before = (2.0**18, *first)
    for was_skipped, after in zip(skipped, positions.seen):
        assert after[0] == (before[0] / 2 if was_skipped else before[0])
        assert [torch.equal(one, other) for one, other in zip(before[1:], after[1:])] == [bool(was_skipped)] * 2
        assert torch.isfinite(after[1]).all()
        before = after
    last = [step for step in seen.steps[-STEPS:] if not step["skipped_steps"]]
    assert steps.figures["skipped_steps"] == STEPS - len(last)
    assert steps.figures["gradient_norm"] == pytest.approx(np.mean([step["gradient_norm"] for step in last]))


def test_a_training_that_only_skips_ends(
    tmp_path: Path, first_scale: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    first_scale(2.0**100)
    monkeypatch.setattr(monitor, "MOST_SKIPPED", 2)
    monkeypatch.setattr(monitor, "READ_INTERVAL_S", 0.0)
    with pytest.raises(TrainingError, match=r"training: gradient_norm is (inf|nan) in epoch 1 of 2, step 2 of 3"):
        run(training(), tmp_path, more=[monitor_of(tmp_path)])


class SavesWithin(Callback):
    """Writes a checkpoint after the first step of the second epoch, as the train stage does."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def on_save_checkpoint(self, _trainer: Any, _module: Any, checkpoint: dict[str, Any]) -> None:
        checkpoint |= {
            "reid": {"format": 1, "model": {}, "contract": "", "persons": []},
            "training": {"position": [1, 1]},
        }

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step == STEPS + 1:
            trainer.save_checkpoint(self.file)


def test_a_training_resumes_within_an_epoch_with_its_scale_to_the_bit(
    tmp_path: Path, first_scale: Callable[..., None]
) -> None:
    first_scale(256.0, growth_interval=3)
    whole, resumed, file = training(), training(), tmp_path / "within.pth"
    run(whole, tmp_path, epochs=2, more=[SavesWithin(file)])
    start = read_training_checkpoint(file)
    assert start.checkpoint["LossScaling"] | {"scale": 512.0, "_growth_tracker": 1} == start.checkpoint["LossScaling"]
    seen = run(resumed, tmp_path, epochs=2, start=start)
    assert len(seen.steps) == STEPS - 1
    for name, tensor in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], tensor), name
