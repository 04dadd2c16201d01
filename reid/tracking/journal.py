"""Figures on their way to MLflow: written to disk first, sent afterwards, and sent again whenever in doubt.

A training must neither wait for a tracking server nor lose a figure because the server was away. So to log something
means only to append a line to a journal: `mlflow.jsonl`, a file in the folder of the stage or of the pipeline run that
is only ever appended to. `mlflow.json` beside it is the journal's address: which MLflow run the records belong to, and
how many bytes of the journal have arrived there. A thread (`sender.py`) replays the journal (`replay.py`): it reads the
records that have not arrived, makes the MLflow call that each stands for, and notes how far it came. A record that is
replayed twice changes nothing. So after a crash, an outage or a lost answer there is one thing to do: replay from the
last noted byte, from this process or from a later one.

This module does not import MLflow.
"""

import json
import math
import os
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from reid.files.records import DamagedRecordError, make_way, read_json_lines, read_or_set_aside
from reid.files.secrets import without_password
from reid.files.writing import replacing

JOURNAL, ADDRESS = "mlflow.jsonl", "mlflow.json"
BATCH = 500
"""Most records that are replayed before their arrival is noted."""

Record = dict[str, Any]
Whole = Annotated[int, Field(ge=-(2**63), lt=2**63)]
Count = Annotated[int, Field(ge=0, lt=2**63)]


class _Dataset(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str
    digest: str
    source_type: str
    source: str


class _LoggedModel(BaseModel):
    """The model that metrics are bound to, and the data sets that they are of; see logged_model.py."""

    name: str
    kind: str
    params: dict[str, str]
    tags: dict[str, str]
    datasets: Annotated[list[_Dataset], Field(min_length=1)]


class _Line(BaseModel):
    """A record as it stands in the file; `replay.py` lists the kinds."""

    model_config = ConfigDict(extra="forbid")

    metrics: dict[str, float] = {}
    step: Whole = 0
    time: Count = 0
    dataset: _Dataset | None = None
    params: dict[str, str] = {}
    tags: dict[str, str] = {}
    artifact: str = ""
    folder: str | None = None
    start: Count = 0
    end: Literal["FINISHED", "FAILED", "KILLED"] = "FINISHED"
    experiment_page: bool = True
    killed_runs_of: str = ""
    parent: bool = False
    logged_model: _LoggedModel | None = None

    @model_validator(mode="after")
    def _require_what_belongs_together(self) -> "_Line":
        needed = {"metrics": {"step", "time"}, "end": {"time"}, "artifact": {"folder"}}
        for name, others in needed.items():
            if name in self.model_fields_set and not others <= self.model_fields_set:
                raise ValueError(f"{name} with {' and '.join(sorted(others))}")
        return self


@dataclass
class Address:
    """The MLflow run that a journal belongs to. Unknown ids are empty; the first replay finds or creates those runs."""

    store: str
    stage: str = ""
    """Empty for the run of a whole pipeline."""
    run_id: str = ""
    parent_id: str = ""
    kfp_run_id: str = ""
    key: str = ""
    """Tag by which the run of a whole pipeline is found again if the answer to its creation was lost."""
    held: bool = False
    """Whether the parent is a run of Kubeflow Pipelines' MLflow plugin, which ends and reopens it."""
    experiment: str = "reid"
    settled: bool = False
    """Whether the runs are known to exist."""
    sent: dict[str, Count] = field(default_factory=dict)
    """MLflow run -> bytes of the journal that have arrived there."""
    before: dict[str, dict[str, Whole]] = field(default_factory=dict)
    """MLflow run -> metric -> last step that an earlier attempt, whose journal is gone, has logged there."""

    @classmethod
    def load(cls, folder: Path) -> "Address | None":
        """Returns the address in this folder; None if there is none, or if it was damaged and is set aside now.

        The password of the store, which is not in the file, comes from this process's MLFLOW_TRACKING_URI.
        """
        address = read_or_set_aside(folder / ADDRESS, cls)
        if address is None:
            return None
        here = os.environ.get("MLFLOW_TRACKING_URI", "")
        if address.store == without_password(here):
            address.store = here
        return address

    def save(self, folder: Path) -> None:
        """Writes the address in one step, without the store's password."""
        values = {**asdict(self), "store": without_password(self.store)}
        with replacing(folder / ADDRESS) as partial:
            partial.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


class Journal:
    """The records of one stage or of one pipeline run; `replay.py` lists the kinds of records."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        make_way(self.path)
        self._lock = threading.Lock()
        self._points: set[tuple[str, int]] = set()
        self._stream = self.path.open("ab", buffering=0)
        records, whole = self.after(0, limit=None)
        if whole < self.size():  # the last line was cut off by a kill
            self._stream.write(b"\n")
        for record in records:
            self._points |= {(name, record["step"]) for name in record.get("metrics", ())}

    def append(self, record: Record) -> None:
        """Writes a record down; it has to be of a kind that `after` reads."""
        _Line.model_validate(record)
        with self._lock:
            self._stream.write(json.dumps(record).encode() + b"\n")

    def append_metrics(self, metrics: Mapping[str, float], step: int, more: Record | None = None) -> None:
        """Writes metrics down, except those that have this step already: a resumed training repeats some steps.

        `more` stands in the same record, for example the logged model that the metrics are of.
        """
        fresh = {name: float(value) for name, value in metrics.items() if (name, step) not in self._points}
        if fresh:
            self._points |= {(name, step) for name in fresh}
            self.append({"metrics": fresh, "step": step, "time": now_ms(), **(more or {})})

    def has_curve(self, name: str) -> bool:
        """Returns whether this metric was logged at any step other than 0."""
        return any(known == name and step for known, step in self._points)

    def after(self, offset: int, *, limit: int | None = BATCH) -> tuple[list[Record], int]:
        """Returns the complete records from this byte on, at most `limit`, and the byte after the last of them.

        Lines that are no records are left out: one that was cut off by a kill, for example.
        """
        lines, end, _ = read_json_lines(self.path, _Line, start=offset, limit=limit, finite=False)
        return [line.model_dump(exclude_unset=True) for line in lines], end

    def size(self) -> int:
        """Returns the number of bytes written."""
        return self.path.stat().st_size

    def close(self) -> None:
        """Closes the file; nothing more can be appended."""
        self._stream.close()


def tags_of_the_pipeline(folder: Path) -> dict[str, str]:
    """Returns the tags that the stage whose journal is in this folder has set on its pipeline's run."""
    tags: dict[str, str] = {}
    try:
        lines, _, _ = read_json_lines(folder / JOURNAL, _Line, finite=False)
    except (FileNotFoundError, DamagedRecordError):
        return tags
    for line in lines:
        if line.parent:
            tags |= line.tags
    return tags


def now_ms() -> int:
    """Returns the time in MLflow's unit, milliseconds since 1970."""
    return math.floor(time.time() * 1000)
