"""MLflow runs: the run of a pipeline, and the nested runs of its stages (the model registry is in `registry.py`).

One pipeline run is one parent run; each stage that really ran is one nested run. The environment is the contract, and
it is the one of Kubeflow Pipelines' own MLflow plugin: MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID name
where a stage logs.
"""

import getpass
import json
import logging
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.errors import MissingDependency, TrackingError

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PARENT = "mlflow.parentRunId"
HEADLINE_STAGES = {"evaluate", "export", "gen_trt_engine", "register"}
"""Stages whose figures stand on the parent run under their own names; the others' are prefixed with the stage."""
PARAMS_IN_A_CALL = 90
"""MLflow takes at most 100 parameters in one call."""


def connect(tracking_uri: str) -> "MlflowClient":
    """A client of the MLflow store; MissingDependency without MLflow, TrackingError where there is no store."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "3")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    for name in ("alembic", "mlflow.store.db.utils"):  # their first-use messages are not for our users
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        from mlflow import MlflowClient
    except ModuleNotFoundError as error:
        raise MissingDependency(f"MLflow is not installed ({error.name}); install the extra 'mlflow'") from None
    if tracking_uri.startswith("sqlite:///"):
        Path(tracking_uri.removeprefix("sqlite:///")).parent.mkdir(parents=True, exist_ok=True)
    with reaching(tracking_uri):
        return MlflowClient(tracking_uri=tracking_uri)


@contextmanager
def reaching(tracking_uri: str) -> Iterator[None]:
    """Turns the store's own errors inside the block into a TrackingError that names the store."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        raise TrackingError(f"MLflow at {tracking_uri}: {str(error).splitlines()[0]}") from error


def _as_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as flat "section.field" texts."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _as_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def _log_metrics(
    client: "MlflowClient", run_id: str, metrics: Mapping[str, float], step: int, *, synchronous: bool = True
) -> Any:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    rows = [Metric(name, float(value), now, step) for name, value in metrics.items()]
    return client.log_batch(run_id, metrics=rows, synchronous=synchronous) if rows else None


def _on_parent(stage: str, metrics: Mapping[str, float]) -> dict[str, float]:
    return dict(metrics) if stage in HEADLINE_STAGES else {f"{stage}/{name}": value for name, value in metrics.items()}


class PipelineRun:
    """The parent run of one pipeline run, held by whoever runs the pipeline on this machine."""

    def __init__(self, client: "MlflowClient", tracking_uri: str, experiment_id: str, run_id: str) -> None:
        self._client = client
        self.tracking_uri, self.experiment_id, self.run_id = tracking_uri, experiment_id, run_id

    def start_stage(self, stage: str) -> str:
        """Opens the nested run of a stage; returns its id."""
        with reaching(self.tracking_uri):
            run = self._client.create_run(
                self.experiment_id, run_name=stage, tags={PARENT: self.run_id, "stage": stage}
            )
        return str(run.info.run_id)

    def finish_stage(self, run_id: str, status: str) -> None:
        """status: FINISHED, FAILED or KILLED."""
        with reaching(self.tracking_uri):
            self._client.set_terminated(run_id, status)

    def copy_cached(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Puts the figures of a stage that was not run again on this pipeline run, and says so in a tag."""
        with reaching(self.tracking_uri):
            _log_metrics(self._client, self.run_id, _on_parent(stage, metrics), 0)
            self._client.set_tag(self.run_id, f"cached.{stage}", "true")

    def finish(self, status: str) -> None:
        """status: FINISHED, FAILED or KILLED."""
        with reaching(self.tracking_uri):
            self._client.set_terminated(self.run_id, status)


def open_pipeline_run(
    *, tracking_uri: str, experiment: str, run_name: str, tags: Mapping[str, str], params: Mapping[str, Any]
) -> PipelineRun:
    """Opens the parent run, the flattened spec as its parameters; TrackingError where the store cannot be reached."""
    client = connect(tracking_uri)
    with reaching(tracking_uri):
        experiment_id = _experiment(client, tracking_uri, experiment)
        _close_orphans(client, experiment_id)
        ours = {
            "reid.host": socket.gethostname(),
            "reid.process": str(os.getpid()),
            "mlflow.user": getpass.getuser(),
            "mlflow.source.type": "LOCAL",
        }
        run = client.create_run(experiment_id, run_name=run_name, tags={**tags, **ours})
        _log_params(client, run.info.run_id, _as_params(params))
    return PipelineRun(client, tracking_uri, experiment_id, run.info.run_id)


def _log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    from mlflow.entities import Param

    rows = [Param(name, value[:6000]) for name, value in params.items()]
    for start in range(0, len(rows), PARAMS_IN_A_CALL):
        client.log_batch(run_id, params=rows[start : start + PARAMS_IN_A_CALL])


def _experiment(client: "MlflowClient", tracking_uri: str, name: str) -> str:
    found = client.get_experiment_by_name(name)
    if found is not None and found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    if found is not None:
        return str(found.experiment_id)
    location = None
    if tracking_uri.startswith("sqlite:///"):  # artifacts beside the database, not in the working directory
        location = (Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()
    return str(client.create_experiment(name, artifact_location=location))


def _close_orphans(client: "MlflowClient", experiment_id: str) -> None:
    """Runs of a process of this machine that is gone (kill -9) would be shown as running for ever."""
    running = client.search_runs(
        [experiment_id], f"attributes.status = 'RUNNING' and tags.`reid.host` = '{socket.gethostname()}'"
    )
    for run in running:
        process = int(run.data.tags.get("reid.process", "0"))
        if process and process != os.getpid() and not _alive(process):
            for nested in client.search_runs([experiment_id], f"tags.`{PARENT}` = '{run.info.run_id}'"):
                if nested.info.status == "RUNNING":
                    client.set_terminated(nested.info.run_id, "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


class StageRun:
    """What a stage logs to: its nested MLflow run, or nothing where no run is named."""

    def __init__(
        self, stage: str, client: "MlflowClient | None" = None, run_id: str = "", tracking_uri: str = ""
    ) -> None:
        self.stage, self.run_id, self.tracking_uri = stage, run_id, tracking_uri
        self._client = client
        self._parent_id: str | None = None
        self._pending: list[Any] = []
        if client is not None:
            with reaching(tracking_uri):
                self._parent_id = client.get_run(run_id).data.tags.get(PARENT)

    @classmethod
    def none(cls) -> "StageRun":
        """Logs nothing."""
        return cls("none")

    @property
    def active(self) -> bool:
        """Whether anything is logged at all."""
        return self._client is not None

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Queues figures at a step (an epoch, say), for the stage's run and the parent; never waits for the store."""
        if self._client is None:
            return
        targets = [(self.run_id, dict(metrics))]
        if self._parent_id:  # curves on the parent too: two pipeline runs then lie over each other in the UI
            targets.append((self._parent_id, _on_parent(self.stage, metrics)))
        for run_id, rows in targets:
            self._pending.append(_log_metrics(self._client, run_id, rows, step or 0, synchronous=False))

    def log_series(self, name: str, values: Sequence[float]) -> None:
        """A curve: step 1 is the first value. CMC curves of several runs lie over each other in the UI."""
        for step, value in enumerate(values, start=1):
            self.log_metrics({name: value}, step)

    def log_outcome(self, metrics: Mapping[str, float]) -> None:
        """The stage's closing figures: on its own run, and on the parent, where runs are compared."""
        if self._client is None:
            return
        with reaching(self.tracking_uri):
            _log_metrics(self._client, self.run_id, metrics, 0)
            if self._parent_id:
                _log_metrics(self._client, self._parent_id, _on_parent(self.stage, metrics), 0)

    def log_dataset(self, name: str, *, fingerprint: str, source: str) -> None:
        """Names the data set of this run and of the parent: the Dataset column of the comparison table."""
        if self._client is None:
            return
        from mlflow.entities import Dataset, DatasetInput

        data = Dataset(name=name, digest=fingerprint[:8], source_type="local", source=json.dumps({"uri": source}))
        with reaching(self.tracking_uri):
            for run_id in filter(None, (self.run_id, self._parent_id)):
                self._client.log_inputs(run_id, [DatasetInput(dataset=data, tags=[])])

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, nested ones as "section.field"."""
        if self._client is not None:
            with reaching(self.tracking_uri):
                _log_params(self._client, self.run_id, _as_params(params))

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags of the stage's run."""
        if self._client is not None:
            with reaching(self.tracking_uri):
                for name, value in tags.items():
                    self._client.set_tag(self.run_id, name, value)

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file into the run's artifacts."""
        if self._client is not None:
            with reaching(self.tracking_uri):
                self._client.log_artifact(self.run_id, str(path), folder)

    def flush(self) -> None:
        """Waits for what log_metrics queued."""
        with reaching(self.tracking_uri):
            for operation in self._pending:
                if operation is not None:
                    operation.wait()
        self._pending.clear()


@contextmanager
def stage_run(stage: str) -> Iterator[StageRun]:
    """The stage's run as the environment names it; without MLFLOW_TRACKING_URI nothing is logged, and that is said."""
    tracking_uri, run_id = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_RUN_ID")
    if not tracking_uri or not run_id:
        missing = "MLFLOW_TRACKING_URI" if not tracking_uri else "MLFLOW_RUN_ID"
        logger.info("MLflow: %s is not set; nothing is logged", missing)
        yield StageRun.none()
        return
    run = StageRun(stage, connect(tracking_uri), run_id, tracking_uri)
    try:
        yield run
    finally:
        run.flush()
