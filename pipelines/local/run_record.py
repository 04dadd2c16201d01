"""One run at a time in a results folder, and a record of each: `<results_dir>/runs/<time>.json`.

The record says which stages ran, how they ended, how long they took and which MLflow runs are theirs. A run that was
killed could not say so: the next one does it for it.
"""

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.local.cache import write_json
from reid.errors import PipelineError
from reid.files.processes import is_alive

WAIT_FOR_LOCK_S = 3.0  # a runner that was killed a moment ago: its guards still hold the lock while they end its tasks


@contextmanager
def sole_runner(root: Path) -> Iterator[int]:
    """Holds `<root>/lock` and gives its file descriptor; PipelineError names the runner that has it."""
    path = root / "lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise PipelineError(f"{path}: cannot be written: {error.strerror}\n  want: a results_dir that can") from None
    try:
        _take(descriptor, path)
        holder = {"pid": os.getpid(), "started": datetime.now().isoformat(" ", "seconds")}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, path: Path) -> None:
    give_up_at = time.monotonic() + WAIT_FOR_LOCK_S
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            holder = _holder(descriptor)
            if time.monotonic() > give_up_at or (holder and is_alive(holder["pid"])):
                raise PipelineError(
                    f"{path}: another run is using this results folder\n"
                    f"  found: process {holder.get('pid', '?')}, started {holder.get('started', '?')}\n"
                    "  want:  wait until it ends, stop it, or choose another results_dir"
                ) from None
        time.sleep(0.05)


def _holder(descriptor: int) -> dict[str, Any]:
    """Whose lock it is; empty where the file does not say so."""
    try:
        found = json.loads(os.pread(descriptor, 4096, 0))
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) and isinstance(found.get("pid"), int) else {}


class RunRecord:
    """The record of this run, rewritten at every change."""

    def __init__(self, folder: Path, **about: Any) -> None:
        moment = datetime.now()
        self.path = folder / f"{moment:%Y-%m-%d-%H%M%S-%f}.json"
        self.content: dict[str, Any] = {
            "state": "running",
            "started": moment.isoformat(" ", "seconds"),
            "stages": {},
            **about,
        }
        write_json(self.path, self.content)

    def stage(self, name: str, **facts: Any) -> None:
        """Adds facts about a stage: state, key, seconds, mlflow_run_id."""
        self.content["stages"].setdefault(name, {}).update(facts)
        write_json(self.path, self.content)

    def end(self, state: str, seconds: float) -> None:
        """The run is over."""
        self.content.update(state=state, seconds=round(seconds, 3))
        write_json(self.path, self.content)


def close_killed_runs(folder: Path) -> None:
    """Marks earlier runs that never ended as killed.

    To be called by the sole runner, before it writes its own record: then whatever says "running" is dead. A file that
    is no record of a run stays as it is: nothing is decided by it.
    """
    for path in sorted(folder.glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            runs = [content, *content["stages"].values()]
            running = [facts for facts in runs if facts["state"] == "running"]
        except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue
        for facts in running:
            facts["state"] = "killed"
        if content in running:
            write_json(path, content)
