"""What happens around the steps of a training: progress and bad losses within an epoch, everything else at its end.

A row of the history is one epoch: epoch (from 0; -1 is the untrained network), step, train_loss and its parts,
accuracy, gradient_norm, learning_rate, images_per_second, seconds; and where it was validated mAP, rank1, rank5,
rank10, mINP, val_loss.
"""

import json
import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from reid.data.module import Batch
from reid.errors import TrainingError
from reid.files import replacing
from reid.lightning import Training
from reid.progress import Progress
from reid.resume import BEST, LATEST, epoch_file, give_name, restore_rng, rng_states
from reid.tracking import StageRun

logger = logging.getLogger(__name__)

READ_INTERVAL_S = 0.5
"""Figures stay on the device between two readings, so that no step waits for them."""
LOGGED_EVERY_STEPS = 10
NAMED_IMAGES = 4
UNTRAINED = -1
"""The epoch of the untrained network's row."""

Row = dict[str, float]


class Steps(Callback):
    """Progress over the whole training, an epoch's mean figures, and TrainingError for a loss that is not finite."""

    def __init__(self, *, epochs: int, steps: int, batch_size: int, files: Sequence[str], run: StageRun) -> None:
        """steps: of an epoch; batch_size: over all ranks; files: the training images' names, in their order."""
        self._epochs, self._steps, self._batch_size, self._files, self._run = epochs, steps, batch_size, files, run
        self._progress: Progress | None = None
        self._waiting: list[tuple[int, dict[str, Tensor], Tensor]] = []
        self._names: list[str] = []
        self._read: list[list[float]] = []
        self._started = self._read_at = 0.0
        self.figures: Row = {}
        """Of the epoch that just ended."""

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Forgets the epoch before."""
        if self._progress is None:
            images = self._steps * self._batch_size
            done = trainer.current_epoch * images
            self._progress = Progress("training", self._epochs * images, already_done=done)
        self._waiting, self._read = [], []
        self._started = self._read_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Keeps the step's figures; reads them from time to time."""
        self._waiting.append((batch_idx, outputs, batch.row))
        if time.monotonic() - self._read_at >= READ_INTERVAL_S:
            self._read_waiting(trainer)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The epoch's means, and every tenth step's loss to the run."""
        self._read_waiting(trainer)
        seconds = time.monotonic() - self._started
        values = torch.tensor(self._read, dtype=torch.float64)
        means = dict(zip(self._names, values.mean(dim=0).tolist()))
        rate = self._steps * self._batch_size / max(seconds, 1e-9)
        self.figures = {"train_loss": means.pop("loss"), **means, "images_per_second": rate, "seconds": seconds}
        first = trainer.current_epoch * self._steps + 1
        for step, row in enumerate(self._read, start=first):
            if step % LOGGED_EVERY_STEPS == 0:
                self._run.log_metrics({"step_loss": row[self._names.index("loss")]}, step)

    def _read_waiting(self, trainer: pl.Trainer) -> None:
        if self._waiting:
            self._names = list(self._waiting[0][1])
            scalars = [figures[name].float() for _, figures, _ in self._waiting for name in self._names]
            rows = torch.stack(scalars).view(len(self._waiting), -1).tolist()
            for row, (step, _, images) in zip(rows, self._waiting):
                self._check(trainer, dict(zip(self._names, row)), step, images)
            self._read += rows
            self._waiting = []
        self._read_at = time.monotonic()
        if self._progress and self._read:
            step = len(self._read)
            self._progress.update(
                (trainer.current_epoch * self._steps + step) * self._batch_size,
                epoch=f"{trainer.current_epoch + 1}/{self._epochs}",
                step=f"{step}/{self._steps}",
                loss=self._read[-1][self._names.index("loss")],
            )

    def _check(self, trainer: pl.Trainer, figures: Mapping[str, float], step: int, images: Tensor) -> None:
        bad = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if bad:
            named = ", ".join(self._files[row] for row in images[:NAMED_IMAGES].tolist())
            raise TrainingError(
                f"training: {bad[0]} in epoch {trainer.current_epoch + 1} of {self._epochs}, "
                f"step {step + 1} of {self._steps}\n"
                f"  its batch begins with: {named} ({len(images)} images)\n"
                "  the last good checkpoint is kept\n"
                "  want: a smaller train.optim.base_lr, or train.clip_grad_norm above 0"
            )


class Record(Checkpoint):
    """The end of an epoch, in this order: validation, learning rate, history, checkpoint, MLflow."""

    def __init__(
        self,
        folder: Path,
        *,
        steps: Steps,
        validate: Callable[[pl.Trainer, Training, int], Row],
        epochs: int,
        validation_interval: int,
        checkpoint_interval: int,
        reid: dict[str, Any],
        training: dict[str, Any],
        run: StageRun,
    ) -> None:
        """validate: (trainer, module, epoch) -> figures; reid, training: plain values for each checkpoint's entries."""
        self._folder, self._steps, self._validate, self._run = folder, steps, validate, run
        self._epochs, self._reid, self._training = epochs, reid, training
        self._validation_interval, self._checkpoint_interval = validation_interval, checkpoint_interval
        self._rng: dict[str, Any] | None = None
        self.history: list[Row] = []

    def on_save_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the entry `reid` (how to use the model) and `training` (how to continue)."""
        checkpoint["reid"] = self._reid
        checkpoint["training"] = {**self._training, "history": self.history, "rng": rng_states()}

    def on_load_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Takes the history and the generators' states back."""
        self.history = [dict(row) for row in checkpoint["training"]["history"]]
        self._rng = checkpoint["training"]["rng"]

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The untrained figures, once; or, resumed, the state of the generators as it was."""
        assert isinstance(module, Training)
        if not self.history:
            self._add({"epoch": UNTRAINED, "step": 0, **self._validate(trainer, module, UNTRAINED)})
        else:
            for row in self.history:
                self._log(row)
        if self._rng is not None:
            restore_rng(self._rng)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Everything that an epoch leaves."""
        assert isinstance(module, Training)
        epoch = trainer.current_epoch
        row: Row = {"epoch": epoch, "step": trainer.global_step, **self._steps.figures}
        row["learning_rate"] = module.learning_rate
        if self._due(epoch, self._validation_interval):
            row |= self._validate(trainer, module, epoch)
        module.after_epoch(train_loss=row["train_loss"], val_loss=row.get("val_loss"))
        is_best = row.get("mAP", -1.0) > best_row(self.history).get("mAP", -1.0)
        self._add(row)
        self._save(trainer, epoch, is_best=is_best)
        logger.info("epoch %d/%d: %s", epoch + 1, self._epochs, _sentence(row, is_best=is_best))

    def _due(self, epoch: int, interval: int) -> bool:
        return (epoch + 1) % interval == 0 or epoch + 1 == self._epochs

    def _save(self, trainer: pl.Trainer, epoch: int, *, is_best: bool) -> None:
        periodic = self._due(epoch, self._checkpoint_interval)
        if periodic or is_best:
            path = self._folder / (epoch_file(epoch) if periodic else BEST)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in [BEST, LATEST] if is_best and periodic else [LATEST]:
                    give_name(path, name)
        if trainer.is_global_zero:
            write_history(self._folder, self.history)

    def _add(self, row: Row) -> None:
        self.history.append(row)
        self._log(row)

    def _log(self, row: Row) -> None:
        """The curves' x axis is the number of epochs done: 0 is the untrained network."""
        self._run.log_metrics(
            {name: value for name, value in row.items() if name not in ("epoch", "step")}, int(row["epoch"]) + 1
        )


def best_row(history: Sequence[Row]) -> Row:
    """The row of the trained epoch with the highest mAP, the first of equals; empty where none was validated."""
    validated = [row for row in history if row["epoch"] != UNTRAINED and "mAP" in row]
    return max(validated, key=lambda row: row["mAP"], default={})


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """history.json, a row a line."""
    rows = ",\n".join(json.dumps(row) for row in history)
    with replacing(folder / "history.json") as partial:
        partial.write_text(f"[\n{rows}\n]\n", encoding="utf-8")


def _sentence(row: Row, *, is_best: bool) -> str:
    parts = [f"loss {row['train_loss']:.3f}", f"{row['images_per_second']:.0f} images/s"]
    if "mAP" in row:
        parts[1:1] = [f"mAP {100 * row['mAP']:.1f}", f"rank-1 {100 * row['rank1']:.1f}"]
    return ", ".join(parts) + (" (best)" if is_best else "")
