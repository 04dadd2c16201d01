"""Records the end of an epoch: figures, the learning rate, a row of the history, checkpoints, MLflow's curves."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import Checkpoint

from reid.distributed.group import Tell
from reid.model.checkpoint import THRESHOLDS
from reid.training.history import UNTRAINED, Row, best_row, sentence, write_history
from reid.training.lightning import Training
from reid.training.monitor import LogsMetrics, StepMonitor
from reid.training.resume import BEST, LATEST, DurableCheckpoints, epoch_file, give_name
from reid.training.stopping import Stopped
from reid.training.validating import Validated

logger = logging.getLogger(__name__)

NO_CURVES = ("epoch", "step", "validation_persons", "validation_images")
"""The entries of a row that are not figures of its epoch."""


def ignore_row(row: Row) -> None:
    """Does nothing with a new row: the default of epoch_ended."""


class ToldMetrics:
    """Has the task's process log the metrics of rank 0 to its run."""

    def __init__(self, tell: Tell) -> None:
        self._tell = tell

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics at a step (an epoch, for example)."""
        self._tell("log_metrics", metrics=dict(metrics), step=step)


class Record(Checkpoint):
    """Does what comes at the end of an epoch: validation, learning rate, history, checkpoint, MLflow, in this order.

    All ranks call it alike, for validation and Lightning's checkpoints are collective; only rank 0 writes.
    """

    def __init__(
        self,
        folder: Path,
        *,
        steps: StepMonitor,
        validate: Callable[[pl.Trainer, Training, int, float], Validated],
        epochs: int,
        validation_interval: int,
        checkpoint_interval: int,
        reid: dict[str, Any],
        training: dict[str, Any],
        history: Sequence[Row],
        checkpoints: DurableCheckpoints,
        run: LogsMetrics,
        epoch_ended: Callable[[Row], None] = ignore_row,
    ) -> None:
        """validate: (trainer, module, epoch, best mAP) -> figures, and thresholds if the mAP is above the best; it
        raises Stopped if an end was asked for.

        reid, training: plain values of the checkpoints' entries of these names; history: the rows of the epochs that
        are done; epoch_ended: called with each new row, the untrained network's too, once it is in the history and its
        checkpoint is under way.
        """
        self._folder, self._steps, self._validate, self._run = folder, steps, validate, run
        self._epochs, self._reid, self._training = epochs, reid, training
        self._validation_interval, self._checkpoint_interval = validation_interval, checkpoint_interval
        self._checkpoints, self._epoch_ended = checkpoints, epoch_ended
        self._position: dict[str, Any] = {}
        self._thresholds = ""
        self.history: list[Row] = [dict(row) for row in history]

    def on_save_checkpoint(self, _trainer: pl.Trainer, _module: pl.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Adds the entries `reid` (how to use the model) and `training` (how to resume).

        Thresholds are in it only if they were measured with these very weights: after the validation of a new best.
        """
        checkpoint["reid"] = {**self._reid, **({THRESHOLDS: self._thresholds} if self._thresholds else {})}
        checkpoint["training"] = {**self._training, "history": self.history, **self._position}

    def on_train_start(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validates the untrained network, or logs the history that a resumed training brings."""
        assert isinstance(module, Training)
        if self.history:
            for done in self.history:
                self._log(done)
            return
        try:
            found = self._validate(trainer, module, UNTRAINED, math.inf)
        except Stopped:
            raise KeyboardInterrupt from None
        row: Row = {"epoch": UNTRAINED, "step": 0, **found.figures}
        self._add(row)
        self._epoch_ended(row)

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Validates if it is due, sets the learning rate, and adds the epoch's row, checkpoint and figures."""
        assert isinstance(module, Training)
        epoch = trainer.current_epoch
        row: Row = {"epoch": epoch, "step": trainer.global_step, **self._steps.figures}
        row["learning_rate"] = module.learning_rate
        best, thresholds = best_row(self.history).get("mAP", -1.0), ""
        if self._is_due(epoch, self._validation_interval):
            try:
                figures, thresholds = self._validate(trainer, module, epoch, best)
                row |= figures
            except Stopped:
                self.save_within(trainer, epoch, self._steps.in_an_epoch)
                raise KeyboardInterrupt from None
        module.after_epoch(train_loss=row["train_loss"], val_loss=row.get("val_loss"))
        is_best = row.get("mAP", -1.0) > best
        self._add(row)
        self._thresholds = thresholds
        self._save_after(trainer, epoch, is_best=is_best)
        self._thresholds = ""  # a checkpoint within the next epoch has other weights
        self._epoch_ended(row)
        logger.info("epoch %d/%d: %s", epoch + 1, self._epochs, sentence(row, is_best=is_best))

    def save_within(self, trainer: pl.Trainer, epoch: int, steps_done: int) -> None:
        """Writes the latest checkpoint in the middle of an epoch.

        If all of the epoch's steps are done, a resumed training does what comes at the epoch's end first.
        """
        self._position = {"position": [epoch, steps_done], "steps": self._steps.state()}
        path = self._folder / LATEST
        trainer.save_checkpoint(path)
        self._checkpoints.then(lambda: logger.info("%s: after step %d of epoch %d", path, steps_done, epoch + 1))

    def _save_after(self, trainer: pl.Trainer, epoch: int, *, is_best: bool) -> None:
        self._position = {"position": [epoch + 1, 0]}
        periodic = self._is_due(epoch, self._checkpoint_interval)
        if periodic or is_best:
            path = self._folder / (epoch_file(epoch) if periodic else BEST)
            trainer.save_checkpoint(path)
            if trainer.is_global_zero:
                for name in [BEST, LATEST] if is_best and periodic else [LATEST]:
                    self._checkpoints.then(partial(give_name, path, name))
        if trainer.is_global_zero:
            self._checkpoints.then(partial(write_history, self._folder, list(self.history)))

    def _is_due(self, epoch: int, interval: int) -> bool:
        return (epoch + 1) % interval == 0 or epoch + 1 == self._epochs

    def _add(self, row: Row) -> None:
        self.history.append(row)
        self._log(row)

    def _log(self, row: Row) -> None:
        """Logs the figures of the row's epoch; the curves' x axis is the number of epochs done, 0 if untrained."""
        self._run.log_metrics(
            {name: value for name, value in row.items() if name not in NO_CURVES}, int(row["epoch"]) + 1
        )
