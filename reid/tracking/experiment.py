"""The MLflow experiment, and what its page shows first: a table of the pipeline runs with mAP and CMC rank 1.

MLflow 3 has no setting for the columns of its run table, but it has views that are saved as tags of the experiment. One
such view shows the figures, and the experiment's description links to it. What a user has set is not overwritten.
"""

import json
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient

COLUMNS = ("mAP", "rank1", "reranked_mAP", "reranked_rank1")
"""Metrics of the parent runs that the view shows."""
VIEW_ID, VIEW_NAME = "reid", "mAP and rank-1"
KIND, NOTE, VIEW = "mlflow.experimentKind", "mlflow.note.content", f"mlflow.sharedViewState.{VIEW_ID}"
TRAINING = "custom_model_development"
"""Kind of an experiment that MLflow shows as model training rather than generative AI."""


def experiment_id(client: "MlflowClient", tracking_uri: str, name: str) -> str:
    """Returns the id of the experiment of this name; creates it if there is none, restores it if it was deleted."""
    from mlflow.exceptions import MlflowException

    location = None
    if tracking_uri.startswith("sqlite:///"):  # artifacts beside the database, not in the working directory
        location = (Path(tracking_uri.removeprefix("sqlite:///")).resolve().parent / "mlartifacts" / name).as_uri()
    found = client.get_experiment_by_name(name)
    if found is None:
        try:
            return str(client.create_experiment(name, artifact_location=location))
        except MlflowException as error:  # another pipeline may have created it at the same moment
            found = client.get_experiment_by_name(name)
            if found is None:
                raise error
    if found.lifecycle_stage == "deleted":
        client.restore_experiment(found.experiment_id)
    return str(found.experiment_id)


def figures_page(experiment: str) -> str:
    """Returns the address, below that of MLflow's UI, of the table of runs with mAP and CMC rank 1."""
    return f"#/experiments/{experiment}/runs?workflowType=machine_learning&viewStateShareKey={VIEW_ID}"


def set_up_page(client: "MlflowClient", experiment: str) -> None:
    """Tags the experiment with its kind, a description and the view, unless it has these tags already."""
    present = client.get_experiment(experiment)
    state = json.dumps({"selectedColumns": [f"metrics.`{name}`" for name in COLUMNS]})
    created = present.creation_time or 0
    wanted = {
        KIND: TRAINING,
        NOTE: "Person re-identification: each run is one run of the pipeline, its stages are nested in it. "
        f"[Table with mAP and rank-1]({figures_page(experiment)})",
        VIEW: json.dumps({"name": VIEW_NAME, "createdAt": created, "updatedAt": created, "state": state}),
    }
    for key, value in wanted.items():
        if key not in present.tags:
            client.set_experiment_tag(experiment, key, value)
