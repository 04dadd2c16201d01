"""Figures bound to a model and to the data set that they were measured on, which the model's page in MLflow shows.

MLflow 3 knows models apart from the runs (logged models). A metric that names a model and a data set stands on the
model's page beside the data set's name; a metric of a run alone does not. The checkpoint that the evaluate stage scores
becomes a logged model whose file stays where it is; the registered ONNX is one anyway, encrypted or not (registry.py).

A server of MLflow 2 knows no logged models: then the figures stand on the run alone, and a line in the log says so.
"""

import logging
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Dataset, Metric

logger = logging.getLogger(__name__)

EXTERNAL = "mlflow.model.isExternal"
"""Tag of a logged model whose files are not in MLflow's store."""
UNKNOWN_TO_OLD_SERVERS = {"ENDPOINT_NOT_FOUND"}
"""Error codes of a server of MLflow 2 that is asked for a logged model."""
METRICS_IN_A_CALL = 1000


def bind(client: "MlflowClient", run_id: str, record: Mapping[str, Any]) -> None:
    """Makes the calls that a journal's record {"metrics", "step", "time", "logged_model"} stands for, beside the run's.

    The model is found again by its run and its name, so a record that is replayed creates no second one.
    """
    from mlflow.exceptions import MlflowException

    described = record["logged_model"]
    try:
        model_id = _find_or_create(client, run_id, described)
    except MlflowException as error:
        if error.error_code not in UNKNOWN_TO_OLD_SERVERS:
            raise
        logger.warning(
            "this MLflow server knows no logged models, which MLflow 3 has: the figures stand on run %s alone", run_id
        )
        return
    log_figures(
        client,
        run_id,
        record["metrics"],
        model_id=model_id,
        datasets=described["datasets"],
        step=record["step"],
        time=record["time"],
    )


def log_figures(
    client: "MlflowClient",
    run_id: str,
    metrics: Mapping[str, float],
    *,
    model_id: str,
    datasets: Sequence[Mapping[str, Any]],
    step: int,
    time: int,
) -> None:
    """Logs metrics on a run, bound to a model, and names the data sets and the model as inputs of the run.

    datasets: the main one first. A further one is that of the metrics whose name ends in "_" and its own name.
    """
    from mlflow.entities import DatasetInput, LoggedModelInput

    entities = [_dataset(entry) for entry in datasets]
    inputs = [DatasetInput(dataset=entry, tags=[]) for entry in entities]
    client.log_inputs(run_id, datasets=inputs, models=[LoggedModelInput(model_id=model_id)])
    rows = list(_rows(metrics, entities, model_id=model_id, step=step, time=time))
    for first in range(0, len(rows), METRICS_IN_A_CALL):
        client.log_batch(run_id, metrics=rows[first : first + METRICS_IN_A_CALL])


def _rows(
    metrics: Mapping[str, float], datasets: Sequence["Dataset"], *, model_id: str, step: int, time: int
) -> Iterable["Metric"]:
    from mlflow.entities import Metric

    main, *further = datasets
    for name, value in metrics.items():
        own = next((entry for entry in further if name.endswith(f"_{entry.name}")), main)
        yield Metric(name, value, time, step, model_id=model_id, dataset_name=own.name, dataset_digest=own.digest)


def _dataset(entry: Mapping[str, Any]) -> "Dataset":
    from mlflow.entities import Dataset

    return Dataset(**entry)


def _find_or_create(client: "MlflowClient", run_id: str, described: Mapping[str, Any]) -> str:
    """Returns the id of the run's logged model of this name."""
    experiment, name = client.get_run(run_id).info.experiment_id, described["name"]
    for known in client.search_logged_models([experiment], filter_string=f"source_run_id = '{run_id}'"):
        if known.name == name:
            return str(known.model_id)
    made = client.create_logged_model(
        experiment,
        name=name,
        source_run_id=run_id,
        tags={EXTERNAL: "true", **described["tags"]},
        params=described["params"],
        model_type=described["kind"],
    )
    client.finalize_logged_model(made.model_id, "READY")
    return str(made.model_id)
