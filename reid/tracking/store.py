"""Connecting to the MLflow store, its errors, and the names under which this project logs there."""

import importlib
import logging
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from reid.console.plain import beginning
from reid.errors import MissingDependency, ReidError, TrackingError
from reid.files.secrets import without_password
from reid.tracking.bounded_answers import BYTES_A_SECOND, TOO_LARGE, bound_answers, within
from reid.tracking.databases import other_schema, require_usable

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

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
FAILS = re.compile(r"^API request to \S*?(/api/\S+) failed .*?too many (\d{3}) error responses")
"""MLflow's words if each of its tries was answered with such a status; what the server said of it is lost."""
CONTACT_S = 60.0
"""How long a few questions to a server may take, all of them together."""
LIMIT = re.compile(rf"found ({TOO_LARGE}|no whole answer|no end of the answers).*?, want .*? (that)")
"""What bounded_answers.py says."""
NO_JSON = "the response body was not in a valid JSON format"
"""MLflow's words for an answer with status 200 that is no JSON object, such as the page of a login."""
PROXYS = "API request to "
"""How MLflow's client begins an error that holds no word of an MLflow server."""
MOST_SHOWN = 300
"""Most characters of a server's words that an error shows."""
READERS = ("mlflow.store.tracking", "mlflow.store.model_registry", "mlflow.utils", "mlflow.entities", "google.protobuf")
"""The modules that read a server's answers."""
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
    # A server with an S3 store offers its clients that store's address, which may be known to the server alone.
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_DOWNLOAD", "false")
    os.environ.setdefault("MLFLOW_ENABLE_PROXY_MULTIPART_UPLOAD", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    for name in ("alembic", "mlflow.store.db.utils"):  # their messages at first use do not help a user
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("urllib3.connectionpool").setLevel(logging.ERROR)  # it warns at each try; the sender warns once
    try:
        importlib.import_module("mlflow")
        if not tracking_uri.startswith("http"):
            importlib.import_module("mlflow.store.tracking.sqlalchemy_store")
        else:
            bound_answers()
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
def reaching(tracking_uri: str, *, moves: int | None = 0) -> Iterator[None]:
    """Turns the store's own errors inside the block into a TrackingError that names the store.

    So is an answer that MLflow's client cannot read. All answers of the block together have to come within CONTACT_S,
    and the time that the files need which the block `moves`, in bytes; if that is None, each request has its own time.
    """
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        with within(None if moves is None else CONTACT_S + moves / BYTES_A_SECOND):
            yield
    except (MlflowException, SQLAlchemyError, OSError) as error:
        said = one_line(without_password(other_schema(str(error), tracking_uri) or str(error)))
        first = str(error)[:10_000].partition("\n")[0]
        refused = SOCKET_ERROR.search(first)  # at the end of a line that counts the tries
        limit = LIMIT.search(said)
        if refused:
            said = f"does not answer: {one_line(refused[0])}"
        elif fails := FAILS.search(first):
            said = f"answers {fails[1]} with status {fails[2]} each time; its log says why"
        elif limit:
            said = f"its answer is refused: {limit[0]}"
        elif NO_JSON in said:
            body = said.partition("Response body: ")[2]
            said = f"found an answer that is not MLflow's ({body}), want the address of an MLflow server"
        raise TrackingError(f"MLflow at {without_password(tracking_uri)}: {said}") from error
    except ReidError:
        raise
    except Exception as error:
        if not _is_of_an_answer(error):
            raise
        raise TrackingError(
            f"MLflow at {without_password(tracking_uri)}: found an answer that is not MLflow's "
            f"({type(error).__name__}: {one_line(without_password(str(error)))}), want the address of an MLflow server"
        ) from error


def one_line(text: str) -> str:
    """The beginning of the first line of a text that a server may have written, without what steers a terminal."""
    return beginning(text.partition("\n")[0], MOST_SHOWN)


def _is_of_an_answer(error: BaseException) -> bool:
    """Whether the error came up in MLflow's client, or in protobuf, while it read an answer."""
    trace = error.__traceback__
    while trace is not None:
        if str(trace.tb_frame.f_globals.get("__name__", "")).startswith(READERS):
            return True
        trace = trace.tb_next
    return False


def refuses_for_good(error: "MlflowException") -> bool:
    """Returns whether MLflow itself refuses, and would do so again; a proxy's or another program's 404 may pass."""
    return error.error_code in REFUSED and not str(error).startswith(PROXYS)


def is_refusal(error: BaseException) -> bool:
    """Returns whether the store answered, and would give the same answer again."""
    return getattr(error.__cause__, "error_code", "") in REFUSED


def is_outage(error: BaseException) -> bool:
    """Returns whether a server could not be reached, or failed, so that asking again may help.

    An answer that is not MLflow's, or far larger than its answers are, is no outage: another server has answered.
    """
    said = str(error.__cause__).partition("Response body")[0]
    return getattr(error.__cause__, "error_code", "") in OUTAGES and NO_JSON not in said and TOO_LARGE not in said


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
