"""What the train stage and its nodes hand each other, as files of the stage's folder on the work volume.

    request.json      what to train, written by the stage
    dataset           the manifest of the images, likewise
    model, report     what node 0 makes, as a training in one pod does
    nodes/0.json …    how each node ended: its outcome, or its error

The folder is that of a training in one pod, so its checkpoints, its journal for MLflow and its removal by the export
stage are the same ones. Only node 0 writes into it, but for nodes/.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from reid.errors import ArtifactError
from reid.files.records import DamagedRecordError, read_json_record, read_or_set_aside
from reid.files.writing import write_text
from reid.stages.outcome import Outcome

REQUEST, DATASET, ENDS = "request.json", "dataset", "nodes"
USER_ERROR = 2
"""Exit status of a node that found something that the user can correct: starting it again would not help."""


def write_request(work: Path, *, spec: str, dataset: Path) -> Path:
    """Writes what the nodes train, and forgets how earlier nodes ended; returns the request's file."""
    shutil.rmtree(work / ENDS, ignore_errors=True)
    write_text(work / DATASET, dataset.read_text(encoding="utf-8"))
    write_text(work / REQUEST, json.dumps({"spec": spec}, indent=1) + "\n")
    return work / REQUEST


def read_request(file: Path) -> str:
    """The spec's text. Raises ArtifactError if this node does not see the file that the stage wrote."""
    try:
        return read_json_record(file, _Request).spec
    except (FileNotFoundError, DamagedRecordError) as error:
        raise ArtifactError(
            f"{file}: this node cannot read what the train stage wrote ({type(error).__name__}: {error})\n"
            "  want: a work volume that all nodes mount at once (ReadWriteMany)"
        ) from None


def write_end(work: Path, node: int, values: Mapping[str, Any]) -> None:
    """Writes how a node ended."""
    write_text(work / ENDS / f"{node}.json", json.dumps(values, indent=1) + "\n")


def forget_end(work: Path, node: int) -> None:
    """Removes what an earlier attempt of this node wrote."""
    (work / ENDS / f"{node}.json").unlink(missing_ok=True)


def as_end(outcome: Outcome) -> dict[str, Any]:
    """A node's end that holds the outcome of the stage."""
    return {"outcome": asdict(outcome)}


def outcome_of(work: Path) -> Outcome | None:
    """The outcome that node 0 wrote; None if it wrote none."""
    return _end(work / ENDS / "0.json").outcome


def errors_of(work: Path) -> dict[int, tuple[int, str]]:
    """Node -> (exit status, text) of the nodes that wrote an error."""
    ends = {int(file.stem): _end(file) for file in sorted((work / ENDS).glob("*.json")) if file.stem.isdecimal()}
    return {node: (end.exit_status, end.error) for node, end in ends.items() if end.error is not None}


@dataclass
class _Request:
    spec: str


@dataclass
class _End:
    """How a node ended: with an outcome or an error; neither if it does not say."""

    outcome: Outcome | None = None
    exit_status: int = 1
    error: str | None = None


def _end(file: Path) -> _End:
    return read_or_set_aside(file, _End) or _End()
