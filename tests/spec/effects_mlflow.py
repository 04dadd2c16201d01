"""The effect of each field of the spec's section `mlflow` on a real SQLite store."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from reid.scoring.per_query import PER_QUERY
from reid.stages.register import register
from reid.tracking.pipeline_run import open_pipeline_run
from reid.tracking.stage_run import stage_run
from reid.tracking.store import connect
from tests.per_query_files import write_per_query
from tests.spec.effects_deploy import exported
from tests.spec.lab import BASE, Lab


def _pipeline_run(lab: Lab) -> Any:
    """Returns the MLflow run of a pipeline that ends at its first stage because its data set is empty."""
    from mlflow import MlflowClient

    from pipelines.run import main

    uri = f"sqlite:///{lab.root}/mlflow.db"

    def run() -> Any:
        spec = yaml.safe_load(BASE.format(root=lab.root))
        spec["results_dir"] = str(lab.root / "pipeline")
        spec["mlflow"] = {"experiment": "mine", "run_name": "the third", "tags": {"colour": "green"}}
        for split in ("train", "query", "test"):
            (lab.root / "empty" / split).mkdir(parents=True)
            spec["dataset"][f"{split}_dataset_dir"] = str(lab.root / "empty" / split)
        (lab.root / "mine.yaml").write_text(yaml.safe_dump(spec))
        lab.patch.setenv("MLFLOW_TRACKING_URI", uri)
        assert main(["--spec", str(lab.root / "mine.yaml")]) != 0
        return True

    lab.once("pipeline run", run)
    client = MlflowClient(tracking_uri=uri)
    experiment = client.get_experiment_by_name("mine")
    assert experiment
    return next(run for run in client.search_runs([experiment.experiment_id]) if "reid.spec" in run.data.tags)


def mlflow_experiment(lab: Lab) -> None:
    assert _pipeline_run(lab).info.experiment_id


def mlflow_run_name(lab: Lab) -> None:
    assert _pipeline_run(lab).info.run_name == "the third"


def mlflow_tags(lab: Lab) -> None:
    assert _pipeline_run(lab).data.tags["colour"] == "green"


def _register(lab: Lab, folder: Path, *overrides: str, mAP: float = 0.5) -> None:
    """Runs the stage register in a pipeline run of its own folder."""
    uri = f"sqlite:///{lab.root}/mlflow.db"
    if not (folder / "mlflow.json").exists():
        pipeline = open_pipeline_run(
            tracking_uri=uri, experiment="registry", run_name="one", tags={}, params={}, results_dir=folder
        )
        pipeline.start_stage("register", folder)
    lab.patch.setenv("MLFLOW_TRACKING_URI", uri)
    figures = dict.fromkeys(("mAP", "rank1", "reranked_mAP", "reranked_rank1"), mAP)
    (folder / "metrics.json").write_text(json.dumps({"headline": "plain", **figures}))
    (folder / "build.json").write_text(json.dumps({"built": False, "reason": "a test"}))
    with stage_run("register", folder) as run:
        register(
            lab.spec(*overrides),
            fingerprint="drawn",
            model=folder,
            results=folder,
            onnx=exported(lab),
            parity=exported(lab).parent / "parity.json",
            engine=folder,
            registration=folder / "registration.json",
            run=run,
        )


def _champion(lab: Lab, name: str) -> int:
    return int(connect(f"sqlite:///{lab.root}/mlflow.db").get_registered_model(name).aliases["champion"])


def mlflow_registered_model(lab: Lab) -> None:
    for _ in ("once", "retried"):
        _register(lab, lab.folder, "mlflow.registered_model=my-model")
    assert _champion(lab, "my-model") == 1


def mlflow_promotion(lab: Lab) -> None:
    before, luck = np.full(30, 0.5), np.where(np.arange(30) % 2, 0.75, 0.3)
    champions = []
    for number, (precision, policy) in enumerate(((before, "evidence"), (luck, "evidence"), (luck, "figure"))):
        folder = lab.folder / str(number)
        write_per_query(folder / PER_QUERY, precision)
        overrides = "mlflow.registered_model=contested", f"mlflow.promotion={policy}"
        _register(lab, folder, *overrides, mAP=float(precision.mean()))
        champions.append(_champion(lab, "contested"))
    assert champions == [1, 1, 3]


MLFLOW: dict[str, Callable[[Lab], None]] = {
    "mlflow.experiment": mlflow_experiment,
    "mlflow.run_name": mlflow_run_name,
    "mlflow.tags": mlflow_tags,
    "mlflow.registered_model": mlflow_registered_model,
    "mlflow.promotion": mlflow_promotion,
}
