"""How a run on this machine ended, task by task."""

import os
from dataclasses import dataclass, field
from pathlib import Path

from pipelines.local.task_files import Outputs

CACHED, RAN, CONTINUED, FAILED, STOPPED, NOT_RUN = "cached", "ran", "continued", "failed", "stopped", "not run"


@dataclass
class TaskReport:
    """How one task of a run ended."""

    stage: str
    state: str = NOT_RUN
    seconds: float = 0.0
    folder: Path | None = None
    outputs: Outputs = field(default_factory=lambda: Outputs({}, {}))


@dataclass
class RunReport:
    """How a run ended. The exit status is 0, 1, 2 if a task ended with 2, or 128 + n after signal n."""

    tasks: dict[str, TaskReport]
    seconds: float
    exit_status: int


def shown(path: Path) -> str:
    """The path as a person would type it here: relative if it lies below the working folder."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
