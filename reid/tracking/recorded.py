"""Reading what MLflow recorded of a finished run: its evaluation, its files, its parameters."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reid.errors import TrackingError
from reid.files.secrets import without_password
from reid.scoring.per_query import PER_QUERY
from reid.tracking.runs import children
from reid.tracking.store import CACHED_RUN, PARENT, STAGE, connect, is_refusal, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

EVALUATE = "evaluate"
LARGEST_BYTES = 1 << 30


@dataclass(frozen=True)
class Recorded:
    """A pipeline's run, or the run of a task by itself, and the run of its evaluation."""

    store: str
    run_id: str
    """The pipeline's run; that of the evaluation if it has no parent."""
    evaluation_id: str
    name: str
    params: Mapping[str, str]
    """The flattened spec."""
    tags: Mapping[str, str]
    evaluation_params: Mapping[str, str]
    metrics: Mapping[str, float]
    """Of the evaluation."""
    data: str
    """Digest of the data set; empty if it was not logged."""


def recorded_evaluation(store: str, run_id: str) -> Recorded:
    """What MLflow knows of the run with this id, which is a pipeline's or one of its stages', and of its evaluation.

    Raises TrackingError if the store does not answer or does not know the run, or if the run has no evaluation.
    """
    client = connect(store)
    with reaching(store):
        run = _run(client, store, run_id)
        above = run.data.tags.get(PARENT)
        parent = _run(client, store, above) if above else run
        evaluation = _evaluation(client, store, run, parent)
        inputs = [one.dataset.digest for one in parent.inputs.dataset_inputs] if parent.inputs else []
    return Recorded(
        store,
        parent.info.run_id,
        evaluation.info.run_id,
        parent.info.run_name or parent.info.run_id,
        parent.data.params,
        parent.data.tags,
        evaluation.data.params,
        evaluation.data.metrics,
        inputs[-1] if inputs else "",
    )


def evaluation_table(store: str, run_id: str, folder: Path) -> Path | None:
    """The table of queries of the evaluation beside this run, copied into the folder; None if there is none."""
    try:
        return fetch_artifact(
            store, recorded_evaluation(store, run_id).evaluation_id, f"{EVALUATE}/{PER_QUERY}", folder
        )
    except TrackingError:
        return None


def recorded_run(store: str, run_id: str) -> "Run":
    """The run with this id; TrackingError if the store does not answer or does not know it."""
    client = connect(store)
    with reaching(store):
        return _run(client, store, run_id)


def stage_runs(store: str, run_id: str) -> "dict[str, Run]":
    """Stage -> its run, for each stage of a pipeline's run; of a cached stage, the run that made the result."""
    client = connect(store)
    with reaching(store):
        parent = _run(client, store, run_id)
        found = {
            tag.removeprefix(CACHED_RUN): _run(client, store, value)
            for tag, value in parent.data.tags.items()
            if tag.startswith(CACHED_RUN)
        }
        nested = sorted(children(client, parent), key=lambda run: run.info.start_time)
        return found | {run.data.tags[STAGE]: run for run in nested if STAGE in run.data.tags}


def newest_parent(store: str) -> str:
    """The id of the newest run of a pipeline in this store. Raises TrackingError if there is none."""
    client = connect(store)
    with reaching(store):
        everywhere = [found.experiment_id for found in client.search_experiments()]
        runs = [run for run in client.search_runs(everywhere) if PARENT not in run.data.tags]
    if not runs:
        raise TrackingError(f"MLflow at {without_password(store)}: found no run; want that of a pipeline")
    return str(max(runs, key=lambda run: run.info.start_time).info.run_id)


def fetch_artifact(store: str, run_id: str, path: str, folder: Path) -> Path | None:
    """Copies an artifact file of a run into the folder; None if the run has no such file.

    Raises TrackingError if the store does not answer, or if the file is larger than a gigabyte.
    """
    client = connect(store)
    above = path.rpartition("/")[0]
    with reaching(store):
        listed = {one.path: one for one in client.list_artifacts(run_id, above or None)}
    if path not in listed or listed[path].is_dir:
        return None
    if (size := listed[path].file_size or 0) > LARGEST_BYTES:
        raise TrackingError(f"run {run_id}: {path} has {size:,} bytes; want at most {LARGEST_BYTES:,}")
    with reaching(store, moves=size):
        return Path(client.download_artifacts(run_id, path, str(folder)))


def add_artifact(store: str, run_id: str, file: Path, folder: str) -> None:
    """Copies a file into a run's artifacts. Raises TrackingError if the store does not take it."""
    client = connect(store)
    with reaching(store, moves=file.stat().st_size):
        client.log_artifact(run_id, str(file), folder)


def _run(client: "MlflowClient", store: str, run_id: str) -> "Run":
    try:
        with reaching(store):
            return client.get_run(run_id)
    except TrackingError as error:
        if not is_refusal(error):
            raise
        raise TrackingError(
            f"run {run_id}: not known to MLflow at {without_password(store)}\n"
            "  want: the id of a run there, or another store in MLFLOW_TRACKING_URI"
        ) from None


def _evaluation(client: "MlflowClient", store: str, run: "Run", parent: "Run") -> "Run":
    """The evaluation of a run: itself, that of its pipeline, or the one whose result the pipeline used again."""
    if run.data.tags.get(STAGE) == EVALUATE:
        return run
    nested = [one for one in children(client, parent) if one.data.tags.get(STAGE) == EVALUATE]
    if nested:
        return max(nested, key=lambda one: (one.info.start_time, one.info.run_id))
    if before := parent.data.tags.get(f"{CACHED_RUN}{EVALUATE}"):
        return _run(client, store, before)
    if any(one.path == EVALUATE for one in client.list_artifacts(run.info.run_id)):
        return run
    raise TrackingError(
        f"run {run.info.run_id}: it has no evaluation in MLflow at {without_password(store)}\n"
        "  want: the run of a pipeline whose evaluate stage has ended, the run of an evaluation, or a results folder"
    )
