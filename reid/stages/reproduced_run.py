"""A recorded run of a pipeline that can be run again: its spec, its surroundings, its data and its numbers.

It is named by its MLflow id, or by its record in a results folder (runs/TIME.json).
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.data.market1501 import Manifest
from reid.errors import ArtifactError, TrackingError
from reid.files.records import DamagedRecordError, read_json_record
from reid.files.surroundings import CLUSTER, SPEC_OF_RUN, WHERE, from_tags
from reid.stages.compare_sides import RUN_ID, local_store

Numbers = Mapping[str, Mapping[str, float]]
"""Stage -> the name of a figure -> its value."""


@dataclass(frozen=True)
class RecordedRun:
    """What a run recorded of itself."""

    title: str
    spec: Path
    surroundings: Mapping[str, str]
    data_fingerprint: str
    """Empty if it is not known."""
    numbers: Numbers
    in_mlflow: bool
    """Whether the numbers are MLflow's."""

    @property
    def on_a_cluster(self) -> bool:
        """Whether Kubeflow ran it; then its machines are not known, nor the numbers of stages from Kubeflow's cache."""
        return self.surroundings.get(WHERE) == CLUSTER


def read_run(given: str, *, scratch: Path) -> RecordedRun:
    """The run of this id or record. Raises ArtifactError or TrackingError if it is not known, or kept no spec."""
    path = Path(given).expanduser()
    if os.path.lexists(path):
        return _of_record(path)
    if RUN_ID.fullmatch(given):
        return _of_mlflow(given, scratch)
    raise ArtifactError(
        f"{given}: no such file, and no id of a run\n"
        "  want: the id of a pipeline's MLflow run (32 characters), or its record, results_dir/runs/TIME.json"
    )


def _of_mlflow(run_id: str, scratch: Path) -> RecordedRun:
    from reid.tracking.recorded import fetch_artifact, recorded_run
    from reid.tracking.store import PARENT

    store = local_store()
    run = recorded_run(store, run_id)
    if above := run.data.tags.get(PARENT):
        raise TrackingError(f"run {run_id}: the run of a stage\n  want: that of its pipeline, {above}")
    spec = fetch_artifact(store, run_id, SPEC_OF_RUN, scratch)
    if spec is None:
        raise TrackingError(
            f"run {run_id}: it kept no {SPEC_OF_RUN}\n  want: a run of `make pipeline-run` of this version or later"
        )
    found = numbers_in_mlflow(store, run_id)
    return RecordedRun(
        f"{run.info.run_name}, run {run_id}", spec, from_tags(run.data.tags), found[1], found[0], in_mlflow=True
    )


def numbers_in_mlflow(store: str, run_id: str) -> tuple[Numbers, str]:
    """The last value of each figure of each stage, and the data fingerprint."""
    from reid.tracking.recorded import stage_runs

    runs = stage_runs(store, run_id)
    checked = runs.get("validate")
    data = checked.data.params.get("data_fingerprint", "") if checked else ""
    return {stage: dict(run.data.metrics) for stage, run in runs.items()}, data


def _of_record(path: Path) -> RecordedRun:
    record, spec = _record(path), path.with_suffix("") / SPEC_OF_RUN
    if not spec.is_file():
        raise ArtifactError(f"{path}: no {spec} beside it\n  want: the record of a pipeline's run, with its spec")
    known = record.get("surroundings")
    around = {str(name): str(value) for name, value in known.items()} if isinstance(known, dict) else {}
    return RecordedRun(str(path), spec, around, _data_of(record), numbers_in_record(path), in_mlflow=False)


def _record(path: Path) -> dict[str, Any]:
    try:
        return read_json_record(path, dict[str, Any])
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file\n  want: the record of a run, results_dir/runs/TIME.json") from None


def _folders(record: Mapping[str, Any]) -> dict[str, Path]:
    """Stage -> the folder of its result."""
    stages = record.get("stages")
    facts = stages.items() if isinstance(stages, dict) else ()
    return {stage: Path(str(one["folder"])) for stage, one in facts if isinstance(one, dict) and "folder" in one}


def _data_of(record: Mapping[str, Any]) -> str:
    folder = _folders(record).get("manifest")
    try:
        return Manifest.load(folder / "dataset.json").fingerprint if folder else ""
    except ArtifactError:
        return ""


def numbers_in_record(path: Path) -> Numbers:
    """The figures in the results that a run's record names; a stage without a result is left out."""
    return {stage: found for stage, folder in _folders(_record(path)).items() if (found := _numbers_in(folder))}


def _numbers_in(folder: Path) -> dict[str, float]:
    try:
        task = read_json_record(folder / "task.json", dict[str, Any])
        values = task["artifacts"]["metrics"]["metadata"]
        return {str(name): float(value) for name, value in values.items() if isinstance(value, int | float)}
    except (OSError, DamagedRecordError, KeyError, TypeError, AttributeError):
        return {}
