"""Ends a training early, or saves a checkpoint in the middle of an epoch: on all ranks after the same step.

Ctrl-C and SIGTERM reach the ranks at any instant, or only those of one machine, and each rank is somewhere else in its
step then. If one rank stopped alone, the others would wait for its gradients for ever. So the ranks vote: after every
step each sends its wish by an all_reduce on the CPU, and reads the answer one step later, when it has long arrived. No
rank ever waits, and all read the same answer after the same step.

A pod of Kubeflow Pipelines is gone within a second of SIGTERM, often before the running step ends. What it loses is
bounded by the checkpoints within an epoch alone. One of resnet_50 with Adam (307 MB) holds a training up for 0.14 s and
keeps the writing thread busy for 0.5 to 1.2 s of one core: below 1 % of the default of 2 minutes.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from reid.data.module import Batch
from reid.distributed.ranks import ProcessGroup, Ranks

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """An end was asked for while no step was running."""


class Vote:
    """Lets every rank know whether any rank wished something; each call returns the answer to the call before.

    The ranks exchange their wishes while the step in between runs. A single process gets its answer at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked: tuple[Any, torch.Tensor] | None = None

    def next(self, *wishes: bool) -> list[bool]:
        """One answer for each wish, the same on every rank."""
        if not isinstance(self._ranks, ProcessGroup):
            return list(wishes)
        before, tensor = self._asked, torch.tensor(wishes, dtype=torch.int32)
        work = dist.all_reduce(tensor, op=dist.ReduceOp.MAX, async_op=True)
        self._asked = work, tensor
        if before is None:
            return [False] * len(wishes)
        before[0].wait()
        return [bool(wish) for wish in before[1].tolist()]

    def settle(self) -> None:
        """Waits for the last exchange, so that no rank leaves while others still wait for it."""
        if self._asked:
            self._asked[0].wait()
            self._asked = None


class Stopping(Callback):
    """On SIGTERM or Ctrl-C, writes a checkpoint after the running step and raises KeyboardInterrupt on every rank.

    A second Ctrl-C ends at once. Every so many minutes it also writes a checkpoint in the middle of an epoch.
    """

    def __init__(self, ranks: Ranks, *, save: Callable[[pl.Trainer, int, int], None], every_minutes: float) -> None:
        """save: called on all ranks with (trainer, epoch, steps of it that are done); every_minutes: 0 is never."""
        self._ranks, self._save, self._every_s = ranks, save, 60 * every_minutes
        self._vote = Vote(ranks)
        self._asked = False
        self.together = False
        """Whether all ranks have stopped after the same step."""
        self._saved_at = time.monotonic()

    def on_train_start(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """From here on signals take effect after a step; Lightning restores the old handlers at the end."""
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._on_signal)

    def on_train_epoch_start(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Starts the clock of checkpoints within an epoch: the end of the epoch before had one of its own."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, _module: pl.LightningModule, _outputs: Any, batch: Batch, _batch_idx: int
    ) -> None:
        """Writes a checkpoint if it is time, and stops if an end was asked for."""
        due = 0 < self._every_s <= time.monotonic() - self._saved_at and not self._ranks.rank
        stop, save = self._vote.next(self._asked, due)
        if stop or save:
            self._save(trainer, batch.step.epoch, batch.step.step + 1)
            self._saved_at = time.monotonic()
        if stop:
            self._vote.settle()
            self.together = True
            raise KeyboardInterrupt

    def on_train_end(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Ends the exchange between the ranks."""
        self._vote.settle()

    def check(self) -> None:
        """Raises Stopped if an end was asked for; all ranks call it between two batches of a validation."""
        if self._ranks.any(self._asked):
            self.together = True
            raise Stopped

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._asked = True
        if self._ranks.local_rank:
            return  # the first rank of the machine says it
        again = "; once more ends at once" if number == signal.SIGINT else ""
        logger.warning("%s: stopping after this step, with a checkpoint%s", signal.Signals(number).name, again)
