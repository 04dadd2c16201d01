"""status.json: what a task is doing, as JSON lines that a machine can follow while it runs.

The lines are those of NVIDIA TAO (date, time, status, verbosity, message, kpi), so that what follows TAO follows this.
They differ where TAO's cannot be relied on: figures are numbers and unrounded, the last line of a task that ended well
is SUCCESS, that of any other FAILURE with the error's text; a task that was killed leaves RUNNING as its last line.
`timestamp` is ISO 8601 beside TAO's date and time.
"""

import json
import logging
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from reid.errors import ArtifactError, ReidError

logger = logging.getLogger(__name__)

TAO_NAMES = {"rank1": "cmc_rank_1", "rank5": "cmc_rank_5", "rank10": "cmc_rank_10", "accuracy": "train_acc"}
"""Our figures that TAO knows under another name: a kpi has them under both."""
ROW_PLACES = ("epoch", "step", "seconds")
"""Of a row of the history: said beside the kpi, as in TAO."""


class StatusFile:
    """The status.json of one task. Lines are added to those of earlier attempts."""

    def __init__(self, path: Path, task: str) -> None:
        self.path, self.task = path, task

    def add(
        self,
        status: str,
        message: str,
        *,
        kpi: Mapping[str, float] | None = None,
        verbosity: str = "INFO",
        **more: Any,
    ) -> None:
        """One line; status is STARTED, RUNNING, SUCCESS or FAILURE. ArtifactError where it cannot be written."""
        now = datetime.now().astimezone()
        line: dict[str, Any] = {
            "date": f"{now.month}/{now.day}/{now.year}",
            "time": f"{now.hour}:{now.minute}:{now.second}",
            "timestamp": now.isoformat(timespec="milliseconds"),
            "status": status,
            "verbosity": verbosity,
            "task": self.task,
            **more,
            "message": message,
        }
        if kpi is not None:
            line["kpi"] = _kpi(kpi)
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line, allow_nan=False) + "\n")
        except OSError as error:
            raise ArtifactError(f"{self.path}: cannot be written\n  found: {error.strerror}") from error

    def succeeded(self, kpi: Mapping[str, float], summary: str = "") -> None:
        """The last line of a task that ended well; summary is its headline."""
        message = f"{self.task.capitalize()} finished successfully."
        self.add("SUCCESS", f"{message} {summary}".strip(), kpi=kpi)


def _kpi(figures: Mapping[str, float]) -> dict[str, float]:
    """The finite figures, unrounded; JSON knows no others."""
    named = {**figures, **{TAO_NAMES[name]: value for name, value in figures.items() if name in TAO_NAMES}}
    return {name: float(value) for name, value in named.items() if math.isfinite(value)}


@contextmanager
def reported(path: Path, task: str) -> Iterator[StatusFile]:
    """STARTED at once; FAILURE where the block raises. The block says when it has succeeded."""
    status = StatusFile(path, task)
    status.add("STARTED", f"Starting ReIdentification {task}.")
    try:
        yield status
    except BaseException as error:
        try:
            status.add("FAILURE", _reason(error), verbosity="ERROR")
        except ArtifactError as unwritten:  # a full disk, most likely the very reason
            logger.warning("%s", unwritten)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "User/System interruption: stopped by Ctrl-C or SIGTERM"
    return str(error) if isinstance(error, ReidError) else f"{type(error).__name__}: {error}"


@contextmanager
def epochs_reported(status: StatusFile, history: Path, *, epochs: int) -> Iterator[None]:
    """A line for each row that the block adds to a training's history.json, once it is there.

    The file is looked at whenever this project logs anything: no thread, and no part in the training itself.
    """
    follower = _HistoryFollower(status, history, epochs)
    project = logging.getLogger("reid")
    project.addHandler(follower)
    try:
        yield
    finally:
        project.removeHandler(follower)
        follower.look()


class _HistoryFollower(logging.Handler):
    def __init__(self, status: StatusFile, history: Path, epochs: int) -> None:
        super().__init__()
        self._status, self._history, self._epochs = status, history, epochs
        self._changed = self._stamp()
        self._told = self._rows()

    def emit(self, _record: logging.LogRecord) -> None:
        self.look()

    def look(self) -> None:
        """Tells the rows that are new since the last look."""
        if (stamp := self._stamp()) == self._changed:
            return
        self._changed = stamp
        rows, before = self._rows(), len(self._told)
        new = rows[before:] if rows[:before] == self._told else rows  # rewritten: a training from the start
        self._told = rows
        for row in new:
            self._status.add("RUNNING", **_row_line(row, self._epochs))

    def _stamp(self) -> int:
        return self._history.stat().st_mtime_ns if self._history.exists() else 0

    def _rows(self) -> list[dict[str, float]]:
        return json.loads(self._history.read_text(encoding="utf-8")) if self._history.exists() else []


def _row_line(row: Mapping[str, float], epochs: int) -> dict[str, Any]:
    """TAO's fields for a row of the history; epochs count from 0, as TAO's do."""
    kpi = {name: value for name, value in row.items() if name not in ROW_PLACES}
    epoch, step, seconds = int(row["epoch"]), int(row["step"]), row.get("seconds", 0.0)
    if epoch < 0:
        return {"message": "The untrained network was validated.", "kpi": kpi}
    steps = max(step // (epoch + 1), 1)
    return {
        "message": "Training loop in progress",
        "epoch": epoch,
        "max_epoch": epochs - 1,
        "step": step,
        "max_step": steps * epochs,
        "time_per_epoch": str(timedelta(seconds=seconds)),
        "time_per_step": str(timedelta(seconds=seconds / steps)),
        "eta": str(timedelta(seconds=round(seconds * (epochs - 1 - epoch)))),
        "kpi": kpi,
    }
