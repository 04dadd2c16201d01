"""The MLflow store: reaching it, and finding and making runs there.

Runs of one pipeline run are found by tags, so that no retried stage and no second process makes another: the parent by
`kfp.pipeline_run_id`, as Kubeflow Pipelines' own MLflow plugin tags it, the run of a stage by its parent and stage.
"""

import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.errors import MissingDependency, TrackingError
from reid.tracking.journal import Address

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PARENT, STAGE, KFP_RUN = "mlflow.parentRunId", "stage", "kfp.pipeline_run_id"
CONTINUED = "reid.continued_from"
"""Tag of a stage's run that an earlier pipeline run began: that run's id."""
HEADLINE_STAGES = {"evaluate", "export", "gen_trt_engine", "register"}
"""Stages whose figures stand on the parent run under their own names; the others' are prefixed with the stage."""
PARAMS_IN_A_CALL, PARAM_LENGTH = 90, 6000
"""MLflow takes at most 100 parameters in one call."""
SOCKET_ERROR = re.compile(r"\[Errno \d+\] [^\"')]+")
REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
"""Answers that do not change by asking again."""


def load_mlflow(tracking_uri: str) -> None:
    """Imports what of MLflow this store needs, in the thread that calls; MissingDependency without it."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the outbox tries again, and longer
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # their first-use messages are not for our users
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # a warning at each try; ours is the one
    try:
        importlib.import_module("mlflow")
        if not tracking_uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"MLflow: no module {error.name}; it comes with pip install -e '.[mlflow]' in the repository's root"
        ) from None


def connect(tracking_uri: str) -> "MlflowClient":
    """A client of the MLflow store; MissingDependency without MLflow, TrackingError where there is no store."""
    load_mlflow(tracking_uri)
    from mlflow import MlflowClient

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
        said = str(error).splitlines()[0]
        refused = SOCKET_ERROR.search(said)  # at the end of a line of how often what was tried
        raise TrackingError(
            f"MLflow at {tracking_uri}: {f'does not answer: {refused[0]}' if refused else said}"
        ) from error


def is_refusal(error: BaseException) -> bool:
    """Whether the store answered, and would answer the same again."""
    return getattr(error.__cause__, "error_code", "") in REFUSED


def as_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested values as flat "section.field" texts."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= as_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def on_parent(stage: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """A stage's figures under the names that they have on the parent run."""
    return dict(metrics) if stage in HEADLINE_STAGES else {f"{stage}/{name}": value for name, value in metrics.items()}


def experiment_id(client: "MlflowClient", tracking_uri: str, name: str) -> str:
    """The experiment of this name, made where there is none, restored where it was deleted."""
    from mlflow.exceptions import MlflowException

    location = None
    if tracking_uri.startswith("sqlite:///"):  # artifacts beside the database, not in the working directory
        location = (Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # another pipeline was first
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def settle(client: "MlflowClient", address: Address) -> None:
    """Finds or makes the address's run and parent, opens the run and puts it under the parent.

    A run that was begun under another parent moves to this one and keeps the name of the other as a tag.
    """
    from mlflow.exceptions import MlflowException

    run = None
    if address.run_id:
        try:
            run = client.get_run(address.run_id)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST" or not address.parent_id:
                raise
    if not address.parent_id and address.kfp_run_id and run is None:
        address.parent_id = _parent_of(client, address)
    if run is None and address.stage:
        run = _stage_run(client, address)
    assert run is not None, "an address without a run is that of a stage"
    address.run_id = run.info.run_id
    before = run.data.tags.get(PARENT, "")
    if address.parent_id and before != address.parent_id:
        client.set_tag(address.run_id, PARENT, address.parent_id)
        client.set_tag(address.run_id, CONTINUED, before)
    address.parent_id = address.parent_id or before
    closed = [run] if run.info.status != "RUNNING" else []
    if address.kfp_run_id and address.parent_id:  # a parent that no runner holds
        parent = client.get_run(address.parent_id)
        closed += [parent] if parent.info.status != "RUNNING" else []
    for one in closed:
        client.update_run(one.info.run_id, status="RUNNING")
    address.settled = True


def _parent_of(client: "MlflowClient", address: Address) -> str:
    """The parent run of a run of Kubeflow Pipelines: the oldest with its tag; of two made at once, one goes again."""
    places = [found.experiment_id for found in client.search_experiments()]

    def found() -> list[Any]:
        runs = client.search_runs(places, f"tags.`{KFP_RUN}` = '{address.kfp_run_id}'")
        parents = [run for run in runs if PARENT not in run.data.tags]
        return sorted(parents, key=lambda run: (run.info.start_time, run.info.run_id))

    runs = found()
    if not runs:
        place = experiment_id(client, address.store, address.experiment)
        places = [*places, place]
        made = client.create_run(place, run_name=f"kfp {address.kfp_run_id[:8]}", tags={KFP_RUN: address.kfp_run_id})
        runs = found() or [made]
        if runs[0].info.run_id != made.info.run_id:
            client.delete_run(made.info.run_id)
    return str(runs[0].info.run_id)


def _stage_run(client: "MlflowClient", address: Address) -> Any:
    """The run of a stage under its parent, made where there is none."""
    place = client.get_run(address.parent_id).info.experiment_id
    query = f"tags.`{PARENT}` = '{address.parent_id}' and tags.`{STAGE}` = '{address.stage}'"
    found = client.search_runs([place], query, max_results=1)
    if found:
        return found[0]
    return client.create_run(place, run_name=address.stage, tags={PARENT: address.parent_id, STAGE: address.stage})


def close_parent(client: "MlflowClient", parent_id: str) -> None:
    """Ends a parent that no runner holds, as its stages' runs ended; the next stage, if any, opens it again."""
    place = client.get_run(parent_id).info.experiment_id
    states = {run.info.status for run in client.search_runs([place], f"tags.`{PARENT}` = '{parent_id}'")}
    if "RUNNING" not in states:
        client.set_terminated(parent_id, next((bad for bad in ("FAILED", "KILLED") if bad in states), "FINISHED"))


def log_params(client: "MlflowClient", run_id: str, params: Mapping[str, str]) -> None:
    """Parameters, in as many calls as it takes."""
    from mlflow.entities import Param

    rows = [Param(name, value[:PARAM_LENGTH]) for name, value in params.items()]
    for start in range(0, len(rows), PARAMS_IN_A_CALL):
        client.log_batch(run_id, params=rows[start : start + PARAMS_IN_A_CALL])
