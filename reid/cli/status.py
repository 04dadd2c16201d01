"""status.json: what a task is doing, as JSON lines that another program can follow while it runs.

The lines have the fields of NVIDIA TAO's (date, time, status, verbosity, message, kpi), so that a program that follows
TAO can follow this project. They differ from TAO's in what a program has to rely on: figures are numbers and unrounded,
and the last line is SUCCESS if the task ended well, FAILURE with the error's text if it did not; a killed task leaves
RUNNING as its last line. `timestamp` is ISO 8601, beside TAO's date and time.
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
"""Names of our figures -> TAO's names for them: a kpi has both."""
BESIDE_KPI = ("epoch", "step", "seconds")
"""Entries of a history's row that are written next to the kpi, not in it, as in TAO's lines."""


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
        """Adds a line; status is STARTED, RUNNING, SUCCESS or FAILURE. Raises ArtifactError if it cannot be written."""
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
        """Adds the last line of a task that ended well; `summary` is its headline."""
        message = f"{self.task.capitalize()} finished successfully."
        self.add("SUCCESS", f"{message} {summary}".strip(), kpi=kpi)

    def epoch_ended(self, row: Mapping[str, float], *, epochs: int) -> None:
        """Adds a line for a new row of a training's history, which will have `epochs` epochs.

        The row of the untrained network gets a line, too.
        """
        self.add("RUNNING", **_row_line(row, epochs))


def _kpi(figures: Mapping[str, float]) -> dict[str, float]:
    """The finite figures, unrounded; JSON has no others."""
    named = {**figures, **{TAO_NAMES[name]: value for name, value in figures.items() if name in TAO_NAMES}}
    return {name: float(value) for name, value in named.items() if math.isfinite(value)}


@contextmanager
def reported(path: Path, task: str) -> Iterator[StatusFile]:
    """Adds STARTED at once, and FAILURE if the block raises; the block itself adds SUCCESS."""
    status = StatusFile(path, task)
    status.add("STARTED", f"Starting ReIdentification {task}.")
    try:
        yield status
    except BaseException as error:
        try:
            status.add("FAILURE", _reason(error), verbosity="ERROR")
        except ArtifactError as unwritten:  # most likely a full disk, which is also why the task failed
            logger.warning("%s", unwritten)
        raise


def _reason(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return "User/System interruption: stopped by Ctrl-C or SIGTERM"
    return str(error) if isinstance(error, ReidError) else f"{type(error).__name__}: {error}"


def _row_line(row: Mapping[str, float], epochs: int) -> dict[str, Any]:
    """TAO's fields for a row of the history. Epochs count from 0, as TAO's do."""
    kpi = {name: value for name, value in row.items() if name not in BESIDE_KPI}
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
