"""How a training ends before its time, or is written down in the middle of an epoch: all ranks after the same step."""

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
    """Somebody asked for an end while no step was running."""


class Agreement:
    """What any rank wishes, without any rank waiting: each call answers what was wished one call ago.

    The ranks talk while the step in between runs; a rank alone gets its answer at once.
    """

    def __init__(self, ranks: Ranks) -> None:
        self._ranks = ranks
        self._asked: tuple[Any, torch.Tensor] | None = None

    def next(self, *wishes: bool) -> list[bool]:
        """One answer a wish; the same on every rank."""
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
        """Waits for what was asked last, so that no rank leaves while others still ask it."""
        if self._asked:
            self._asked[0].wait()
            self._asked = None


class Stopping(Callback):
    """SIGTERM, or Ctrl-C: the running step is finished, a checkpoint written, KeyboardInterrupt raised on every rank.

    A second Ctrl-C ends at once. And every so many minutes a checkpoint is written in the middle of an epoch.
    """

    def __init__(self, ranks: Ranks, *, save: Callable[[pl.Trainer, int, int], None], every_minutes: float) -> None:
        """save: (trainer, epoch, steps of it that are done), called on all ranks; every_minutes 0: never."""
        self._ranks, self._save, self._every_s = ranks, save, 60 * every_minutes
        self._agreement = Agreement(ranks)
        self._asked = False
        self._saved_at = time.monotonic()

    def on_train_start(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """From here on signals are answered after a step; Lightning puts the old handlers back at its end."""
        if threading.current_thread() is threading.main_thread() and not self._ranks.rank:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, self._answer)

    def on_train_epoch_start(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """The end of an epoch has its own checkpoint."""
        self._saved_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, _module: pl.LightningModule, _outputs: Any, batch: Batch, _batch_idx: int
    ) -> None:
        """Writes a checkpoint where it is time, and stops where somebody asked for it."""
        due = 0 < self._every_s <= time.monotonic() - self._saved_at and not self._ranks.rank
        stop, save = self._agreement.next(self._asked, due)
        if stop or save:
            self._save(trainer, batch.step.epoch, batch.step.step + 1)
            self._saved_at = time.monotonic()
        if stop:
            self._agreement.settle()
            raise KeyboardInterrupt

    def on_train_end(self, _trainer: pl.Trainer, _module: pl.LightningModule) -> None:
        """Nothing is left open between the ranks."""
        self._agreement.settle()

    def check(self) -> None:
        """Stopped where somebody asked for an end; called between two batches of a validation, on all ranks."""
        if self._ranks.any(self._asked):
            raise Stopped

    def _answer(self, number: int, frame: FrameType | None) -> None:
        if self._asked and number == signal.SIGINT:
            signal.default_int_handler(number, frame)
        self._asked = True
        again = "; once more ends at once" if number == signal.SIGINT else ""
        logger.warning("%s: stopping after this step, with a checkpoint%s", signal.Signals(number).name, again)
