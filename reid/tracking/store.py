"""Connecting to the MLflow store, its errors, and the names under which this project logs there."""

import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reid.errors import MissingDependency, TrackingError
from reid.files.secrets import without_password
from reid.tracking.databases import other_schema, require_usable

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

PARENT, STAGE, KFP_RUN = "mlflow.parentRunId", "stage", "kfp.pipeline_run_id"
PLUGIN = "kfp.pipeline_run_url"
"""Tag of every parent that Kubeflow Pipelines' own MLflow plugin has made."""
KEY, HOST, PROCESS = "reid.key", "reid.host", "reid.process"
"""Tags of a pipeline's run: the key of its journal, and the process that holds it."""
CONTINUED = "reid.continued_from"
"""Tag of a stage's run that an earlier pipeline run began: the id of that pipeline run."""
CACHED_RUN = "cached_run."
"""Begins the tags of a pipeline's run that name, for a stage whose cached result is used, the run that made it."""
HEADLINE_STAGES = {"evaluate", "export", "gen_trt_engine", "register"}
"""Stages whose metrics have their own names on the parent run; those of other stages are prefixed with the stage."""
SOCKET_ERROR = re.compile(r"\[Errno -?\d+\] [^\"')]+")
REFUSED = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE", "BAD_REQUEST"}
"""Error codes of MLflow that asking again does not change."""
OUTAGES = {"INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"}
"""Error codes of MLflow's client for a server that cannot be reached, or answers with a status from 500."""


def load_mlflow(tracking_uri: str) -> None:
    """Imports the parts of MLflow that this store needs, in the calling thread; MissingDependency without MLflow."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")  # the sender tries again, for longer
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # their messages at first use do not help a user
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns at each try; the sender warns once
    try:
        importlib.import_module("mlflow")
        if not tracking_uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
    except ModuleNotFoundError as error:
        raise MissingDependency(
            f"MLflow: no module {error.name}; it comes with pip install -e '.[mlflow]' in the repository's root"
        ) from None


def connect(tracking_uri: str) -> "MlflowClient":
    """Returns a client of the MLflow store; MissingDependency without MLflow, TrackingError if there is no store."""
    load_mlflow(tracking_uri)
    from mlflow import MlflowClient

    require_usable(tracking_uri)
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
        said = without_password(other_schema(str(error), tracking_uri) or str(error).splitlines()[0])
        refused = SOCKET_ERROR.search(said)  # at the end of a line that counts the tries
        raise TrackingError(
            f"MLflow at {without_password(tracking_uri)}: {f'does not answer: {refused[0]}' if refused else said}"
        ) from error


def is_refusal(error: BaseException) -> bool:
    """Returns whether the store answered, and would give the same answer again."""
    return getattr(error.__cause__, "error_code", "") in REFUSED


def is_outage(error: BaseException) -> bool:
    """Returns whether a server could not be reached, or failed, so that asking again may help."""
    return getattr(error.__cause__, "error_code", "") in OUTAGES


def as_params(values: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Returns nested values as flat texts named "section.field"."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= as_params(value, f"{prefix}{name}.")
        else:
            flat[f"{prefix}{name}"] = str(value)
    return flat


def on_parent(stage: str, metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns a stage's metrics under the names that they have on the parent run."""
    return dict(metrics) if stage in HEADLINE_STAGES else {f"{stage}/{name}": value for name, value in metrics.items()}
