"""What happens around the steps of a training: progress and bad losses within an epoch, everything else at its end."""

import logging
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback, Checkpoint
from torch import Tensor

from reid.console.progress import Progress
from reid.data.module import Batch
from reid.data.sampler import Step
from reid.distributed.ranks import Ranks
from reid.errors import TrainingError
from reid.files.writing import replacing
from reid.tracking.stage_run import StageRun
from reid.training.history import UNTRAINED, Row, best_row, sentence, write_history
from reid.training.lightning import Training
from reid.training.resume import BEST, LATEST, DurableCheckpoints, epoch_file, give_name
from reid.training.stopping import Stopped

logger = logging.getLogger(__name__)

READ_INTERVAL_S = 0.5
"""Figures stay on the device between two readings, so that no step waits for them."""
LOGGED_EVERY_STEPS = 10
NAMED_IMAGES = 4
BAD_BATCH = "bad_batch.txt"
"""In the model directory: the images of the batch whose loss was not finite."""


class StepMonitor(Callback):
    """Progress over the whole training, an epoch's mean figures, and TrainingError for a loss that is not finite.

    The figures are those of all ranks, so every rank has the same.
    """

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        steps: int,
        batch_size: int,
        files: Sequence[str],
        ranks: Ranks,
        run: StageRun,
    ) -> None:
        """steps: of an epoch; batch_size: over all ranks; files: the training images' names, in their order."""
        self._folder, self._epochs, self.in_an_epoch, self._batch_size = folder, epochs, steps, batch_size
        self._files, self._ranks, self._run = files, ranks, run
        self._progress: Progress | None = None
        self._waiting: list[tuple[Step, dict[str, Tensor]]] = []
        self._names: list[str] = []
        self._read: list[list[float]] = []
        self._seconds = self._read_at = 0.0
        self._started: float | None = None
        self._restored: dict[str, Any] | None = None
        self.figures: Row = {}
        """Of the epoch that just ended."""

    def state(self) -> dict[str, Any]:
        """What there is of the epoch so far, as plain values."""
        self._read_waiting()
        running_s = time.monotonic() - self._started if self._started else 0.0
        return {"names": self._names, "rows": self._read, "seconds": self._seconds + running_s}

    def restore(self, state: dict[str, Any]) -> None:
        """What state gave: the next epoch goes on from it."""
        self._restored = state

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Forgets the epoch before."""
        before = self._restored or {"names": [], "rows": [], "seconds": 0.0}
        self._names, self._read, self._seconds = before["names"], list(before["rows"]), before["seconds"]
        self._waiting, self._restored = [], None
        if self._progress is None:
            images = self.in_an_epoch * self._batch_size
            done = trainer.current_epoch * images + len(self._read) * self._batch_size
            self._progress = Progress("training", self._epochs * images, already_done=done)
        self._started = self._read_at = time.monotonic()

    def on_train_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, batch: Batch, _batch_idx: int
    ) -> None:
        """Keeps the step's figures; reads them from time to time."""
        self._waiting.append((batch.step, outputs))
        if time.monotonic() - self._read_at >= READ_INTERVAL_S:
            self._read_waiting()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The epoch's means, and every tenth step's loss to the run."""
        self._seconds, self._started = self.state()["seconds"], None
        values = torch.tensor(self._read, dtype=torch.float64)
        means = dict(zip(self._names, values.mean(dim=0).tolist()))
        rate = self.in_an_epoch * self._batch_size / max(self._seconds, 1e-9)
        self.figures = {"train_loss": means.pop("loss"), **means, "images_per_second": rate, "seconds": self._seconds}
        if module.device.type == "cuda":
            self.figures["gpu_memory_gb"] = torch.cuda.max_memory_allocated(module.device) / 1e9
        first = trainer.current_epoch * self.in_an_epoch + 1
        for step, row in enumerate(self._read, start=first):
            if step % LOGGED_EVERY_STEPS == 0:
                self._run.log_metrics({"step_loss": row[self._names.index("loss")]}, step)

    def _read_waiting(self) -> None:
        if self._waiting:
            self._names = list(self._waiting[0][1])
            scalars = [figures[name] for _, figures in self._waiting for name in self._names]
            rows = torch.stack(scalars).view(len(self._waiting), -1).tolist()
            for row, (step, _) in zip(rows, self._waiting):
                self._check(dict(zip(self._names, row)), step)
            self._read += rows
            self._say(self._waiting[-1][0])
            self._waiting = []
        self._read_at = time.monotonic()

    def _say(self, step: Step) -> None:
        if self._progress:
            done = step.epoch * self.in_an_epoch + step.step + 1
            self._progress.update(
                done * self._batch_size,
                epoch=f"{step.epoch + 1}/{self._epochs}",
                step=f"{step.step + 1}/{self.in_an_epoch}",
                loss=self._read[-1][self._names.index("loss")],
            )

    def _check(self, figures: Mapping[str, float], step: Step) -> None:
        bad = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if not bad or self._ranks.rank:
            return
        names = [self._files[row] for row in step.indices.tolist()]
        with replacing(self._folder / BAD_BATCH) as partial:
            partial.write_text("\n".join(names) + "\n", encoding="utf-8")
        raise TrainingError(
            f"training: {bad[0]} in epoch {step.epoch + 1} of {self._epochs}, "
            f"step {step.step + 1} of {self.in_an_epoch}\n"
            f"  its batch begins with: {', '.join(names[:NAMED_IMAGES])}; all {len(names)} images are in\n"
            f"  {self._folder / BAD_BATCH}\n"
            "  the last good checkpoint is kept\n"
            "  want: a smaller train.optim.base_lr, or train.clip_grad_norm above 0"
        )


class Record(Checkpoint):
    """The end of an epoch, in this order: validation, learning rate, history, checkpoint, MLflow.

    All ranks call it alike; only rank 0 writes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: StepMonitor,
        validate: Callable[[pl.Trainer, Training, int], Row],
        epochs: int,
        validation_interval: int,
        checkpoint_interval: int,
        reid: dict[str, Any],
        training: dict[str, Any],
        history: Sequence[Row],
        checkpoints: DurableCheckpoints,
        run: StageRun,
    ) -> None:
        """validate: (trainer, module, epoch) -> figures, Stopped where it was asked to stop; reid, training: plain
        values for each checkpoint's entries; history: of the epochs that are done.
        """
        self._folder, self._steps, self._validate, self._run = folder, steps, validate, run
        self._epochs, self._reid, self._training = epochs, reid, training
        self._validation_interval, self._checkpoint_interval = validation_interval, checkpoint_interval
        self._checkpoints = checkpoints
        self._place: dict[str, Any] = {}
        self.history: list[Row] = [dict(row) for row in history]

    def on_save_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the entry `reid` (how to use the model) and `training` (how to continue)."""
        checkpoint["reid"] = self._reid
        checkpoint["training"] = {**self._training, "history": self.history, **self._place}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """The untrained figures, once."""
        assert isinstance(module, Training)
        if self.history:
            for row in self.history:
                self._log(row)
            return
        try:
            self._add({"epoch": UNTRAINED, "step": 0, **self._validate(trainer, module, UNTRAINED)})
        except Stopped:
            raise KeyboardInterrupt from None

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Everything that an epoch leaves."""
        assert isinstance(module, Training)
        epoch = trainer.current_epoch
        row: Row = {"epoch": epoch, "step": trainer.global_step, **self._steps.figures}
        row["learning_rate"] = module.learning_rate
        if self._due(epoch, self._validation_interval):
            try:
                row |= self._validate(trainer, module, epoch)
            except Stopped:
                self.save_within(trainer, epoch, self._steps.in_an_epoch)
                raise KeyboardInterrupt from None
        module.after_epoch(train_loss=row["train_loss"], val_loss=row.get("val_loss"))
        is_best = row.get("mAP", -1.0) > best_row(self.history).get("mAP", -1.0)
        self._add(row)
        self._save_after(trainer, epoch, is_best=is_best)
        logger.info("epoch %d/%d: %s", epoch + 1, self._epochs, sentence(row, is_best=is_best))

    def save_within(self, trainer: pl.Trainer, epoch: int, steps_done: int) -> None:
        """The latest checkpoint in the middle of an epoch; all its steps done: only its end is left."""
        self._place = {"position": [epoch, steps_done], "steps": self._steps.state()}
        path = self._folder / LATEST
        trainer.save_checkpoint(path)
        self._checkpoints.then(lambda: logger.info("%s: after step %d of epoch %d", path, steps_done, epoch + 1))

    def _save_after(self, trainer: pl.Trainer, epoch: int, *, is_best: bool) -> None:
        self._place = {"position": [epoch + 1, 0]}
        periodic = self._due(epoch, self._checkpoint_interval)
        if periodic or is_best:
            path = self._folder / (epoch_file(epoch) if periodic else BEST)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in [BEST, LATEST] if is_best and periodic else [LATEST]:
                    self._checkpoints.then(partial(give_name, path, name))
        if trainer.is_global_zero:
            self._checkpoints.then(partial(write_history, self._folder, list(self.history)))

    def _due(self, epoch: int, interval: int) -> bool:
        return (epoch + 1) % interval == 0 or epoch + 1 == self._epochs

    def _add(self, row: Row) -> None:
        self.history.append(row)
        self._log(row)

    def _log(self, row: Row) -> None:
        """The curves' x axis is the number of epochs done: 0 is the untrained network."""
        self._run.log_metrics(
            {name: value for name, value in row.items() if name not in ("epoch", "step")}, int(row["epoch"]) + 1
        )
