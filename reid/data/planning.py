"""The batches of each epoch, planned in a thread while the epoch before it runs.

A plan is a pure function of the epoch, so it does not matter when, in which thread or how often it is made.
"""

import os
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, NamedTuple

from reid.data.batch_parts import Indices


class _Ahead(NamedTuple):
    epoch: int
    process: int
    """The process that plans it: a thread does not exist in a fork of its process."""
    plan: Future[Indices]


class PlannedEpochs:
    """The plans of epochs in their order; if one is asked for, its successor is begun in a thread."""

    def __init__(self, plan: Callable[[int], Indices]) -> None:
        """plan: epoch (from 0) -> its batches (S, B); a pure function."""
        self._plan = plan
        self._ahead: _Ahead | None = None

    def batches(self, epoch: int, *, last: bool = False) -> Indices:
        """The batches of an epoch (S, B); what `plan` raised for it. After the last epoch, none is planned ahead."""
        ahead, self._ahead = self._ahead, None
        if ahead and (ahead.epoch, ahead.process) == (epoch, os.getpid()):
            planned = ahead.plan.result()
        else:
            planned = self._plan(epoch)
        if not last:
            self._begin(epoch + 1)
        return planned

    def _begin(self, epoch: int) -> None:
        ahead = _Ahead(epoch, os.getpid(), Future())

        def work() -> None:
            try:
                ahead.plan.set_result(self._plan(epoch))
            except BaseException as error:
                ahead.plan.set_exception(error)

        self._ahead = ahead
        threading.Thread(target=work, name=f"plan of epoch {epoch}", daemon=True).start()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy in another process needs: it plans anew."""
        return {"_plan": self._plan, "_ahead": None}
