"""Watches the steps of a training: shows progress, keeps the figures, and ends the training if a loss is bad.

A figure is a scalar on the device. To read it the host must wait until the step is computed, so figures are collected
and read together, about twice a second: no step waits, and a bad loss is noticed at most a few steps late.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import Tensor

from reid.console.progress import Progress
from reid.data.module import Batch
from reid.data.sampler import Step
from reid.distributed.ranks import Ranks
from reid.errors import TrainingError
from reid.files.writing import replacing
from reid.training.history import Row

MOST_SKIPPED = 40
"""So many steps in a row may be skipped in fp16: each halves the scale of the loss, from 65,536 down to 6e-8."""
READ_INTERVAL_S = 0.5
"""Time between two readings of the figures."""
LOGGED_EVERY_STEPS = 10
NAMED_IMAGES = 4
BAD_BATCH = "bad_batch.txt"
"""The file in the model directory that names the images of the batch whose loss was not finite."""


class LogsMetrics(Protocol):
    """Takes the figures of a training, as reid.tracking's run of a stage does."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None: ...


class StepMonitor(Callback):
    """Shows progress over the whole training, takes the mean figures of an epoch, and checks that losses are finite.

    Raises TrainingError for a loss that is not. The figures are means over all ranks, so every rank has the same.
    A gradient that overflows in fp16 is no error, for its step was skipped, unless MOST_SKIPPED steps in a row are.
    """

    def __init__(
        self,
        folder: Path,
        *,
        epochs: int,
        steps: Callable[[int], int],
        batch_size: int,
        files: Sequence[str],
        ranks: Ranks,
        run: LogsMetrics,
    ) -> None:
        """steps: epoch (from 0) -> its number of steps; batch_size: over all ranks; files: names of the training
        images, in their order.
        """
        self._folder, self._epochs, self._steps_in, self._batch_size = folder, epochs, steps, batch_size
        self.in_an_epoch = steps(0)
        """The number of steps of the epoch that runs."""
        self._images = self.in_an_epoch * batch_size
        self._files, self._ranks, self._run = files, ranks, run
        self._progress: Progress | None = None
        self._waiting: list[tuple[Step, dict[str, Tensor]]] = []
        self._names: list[str] = []
        self._read: list[list[float]] = []
        self._seconds = self._read_at = 0.0
        self._started: float | None = None
        self._skipped = 0
        self._restored: dict[str, Any] | None = None
        self.figures: Row = {}
        """The figures of the epoch that just ended."""

    def state(self) -> dict[str, Any]:
        """The figures of the epoch so far and the seconds it took, as plain values for a checkpoint."""
        self._read_waiting()
        running_s = time.monotonic() - self._started if self._started else 0.0
        return {"names": self._names, "rows": self._read, "seconds": self._seconds + running_s}

    def restore(self, state: dict[str, Any]) -> None:
        """Takes what `state` returned: the next epoch resumes with it."""
        self._restored = state

    def on_train_epoch_start(self, trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Forgets the figures of the epoch before, and starts the clock."""
        before = self._restored or {"names": [], "rows": [], "seconds": 0.0}
        self._names, self._read, self._seconds = before["names"], list(before["rows"]), before["seconds"]
        self._waiting, self._restored = [], None
        self.in_an_epoch = self._steps_in(trainer.current_epoch)
        if self._progress is None:
            done = self._done(trainer.current_epoch, len(self._read))
            self._progress = Progress("training", self._epochs * self._images, already_done=done)
        self._started = self._read_at = time.monotonic()

    def on_train_batch_end(
        self, _trainer: pl.Trainer, _module: pl.LightningModule, outputs: Any, batch: Batch, _batch_idx: int
    ) -> None:
        """Keeps the step's figures, and reads all that were kept if it is time to."""
        self._waiting.append((batch.step, outputs))
        if time.monotonic() - self._read_at >= READ_INTERVAL_S:
            self._read_waiting()

    def on_train_epoch_end(self, trainer: pl.Trainer, module: pl.LightningModule) -> None:
        """Takes the means of the epoch, and logs every tenth step's loss to the run."""
        self._seconds, self._started = self.state()["seconds"], None
        means = self._means()
        rate = self.in_an_epoch * self._batch_size / max(self._seconds, 1e-9)
        self.figures = {"train_loss": means.pop("loss"), **means, "images_per_second": rate, "seconds": self._seconds}
        if module.device.type == "cuda":
            self.figures["gpu_memory_gb"] = torch.cuda.max_memory_allocated(module.device) / 1e9
        first = trainer.global_step - len(self._read) + 1
        for step, row in enumerate(self._read, start=first):
            if step % LOGGED_EVERY_STEPS == 0:
                self._run.log_metrics({"step_loss": row[self._names.index("loss")]}, step)

    def _means(self) -> Row:
        """The mean of each figure over the epoch; the gradient's norm only over the steps that were taken.

        skipped_steps is their number.
        """
        values = torch.tensor(self._read, dtype=torch.float64)
        means: Row = dict(zip(self._names, values.mean(dim=0).tolist()))
        if "skipped_steps" in means:
            taken = values[:, self._names.index("skipped_steps")] == 0
            means["skipped_steps"] = float((~taken).sum())
            means["gradient_norm"] = float(values[taken, self._names.index("gradient_norm")].mean())
            if not taken.any():
                del means["gradient_norm"]
        return means

    def _read_waiting(self) -> None:
        if self._waiting:
            self._names = list(self._waiting[0][1])
            scalars = [figures[name] for _, figures in self._waiting for name in self._names]
            rows = torch.stack(scalars).view(len(self._waiting), -1).tolist()
            for row, (step, _) in zip(rows, self._waiting):
                self._check(dict(zip(self._names, row)), step)
            self._read += rows
            self._show(self._waiting[-1][0])
            self._waiting = []
        self._read_at = time.monotonic()

    def _show(self, step: Step) -> None:
        if self._progress:
            self._progress.update(
                self._done(step.epoch, step.step + 1),
                epoch=f"{step.epoch + 1}/{self._epochs}",
                step=f"{step.step + 1}/{self.in_an_epoch}",
                loss=self._read[-1][self._names.index("loss")],
            )

    def _done(self, epoch: int, steps: int) -> int:
        """The number of images that are done, if every epoch had as many as the first: then they are exact."""
        return round((epoch + steps / self.in_an_epoch) * self._images)

    def _check(self, figures: Mapping[str, float], step: Step) -> None:
        skipped = bool(figures.get("skipped_steps"))
        self._skipped = self._skipped + 1 if skipped else 0
        excused = {"gradient_norm"} if skipped and self._skipped < MOST_SKIPPED else set()
        bad = [
            f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value) and name not in excused
        ]
        if not bad or self._ranks.rank:
            return
        names = [self._files[row] for row in step.indices.tolist()]
        with replacing(self._folder / BAD_BATCH) as partial:
            partial.write_text("\n".join(names) + "\n", encoding="utf-8", errors="surrogateescape")
        raise TrainingError(
            f"training: {bad[0]} in epoch {step.epoch + 1} of {self._epochs}, "
            f"step {step.step + 1} of {self.in_an_epoch}\n"
            f"  its batch begins with: {', '.join(names[:NAMED_IMAGES])}; all {len(names)} images are in\n"
            f"  {self._folder / BAD_BATCH}\n"
            "  the last good checkpoint is kept\n"
            "  want: a smaller train.optim.base_lr, or train.clip_grad_norm above 0"
        )
