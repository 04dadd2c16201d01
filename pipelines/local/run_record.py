"""A record of each run: `<results_dir>/runs/<time>.json`, and the spec that it had, `<time>/spec.yaml`.

The record says which stages ran, how they ended, how long they took and which MLflow runs are theirs, and in which
surroundings: code, packages, machine. The record of a run that was killed is completed by the next run.
"""

from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from pipelines.local.cache import write_json
from reid.files.records import read_or_set_aside
from reid.files.surroundings import SPEC_OF_RUN
from reid.files.writing import write_text


class _Part(BaseModel):
    """A run, or a stage of it; what else is known of it is kept as it is."""

    model_config = ConfigDict(extra="allow")

    state: str


class _Run(_Part):
    stages: dict[str, _Part]


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

    def keep_spec(self, text: str) -> Path:
        """Writes the spec of this run, which holds no secret; returns its file."""
        file = self.path.with_suffix("") / SPEC_OF_RUN
        write_text(file, text)
        return file

    def stage(self, name: str, **facts: Any) -> None:
        """Adds facts about a stage: state, key, seconds, mlflow_run_id."""
        self.content["stages"].setdefault(name, {}).update(facts)
        write_json(self.path, self.content)

    def end(self, state: str, seconds: float) -> None:
        """Notes how the run ended."""
        self.content.update(state=state, seconds=round(seconds, 3))
        write_json(self.path, self.content)


def close_killed_runs(folder: Path) -> None:
    """Marks earlier runs that never ended as killed.

    Call it while holding the folder's lock, before the new run writes its record: every run that is recorded as
    running has then been killed. A file that is no record of a run is set aside.
    """
    for path in sorted(folder.glob("*.json")):
        run = read_or_set_aside(path, _Run)
        if run is not None and run.state == "running":
            for part in (run, *run.stages.values()):
                part.state = "killed" if part.state == "running" else part.state
            write_json(path, run.model_dump())
