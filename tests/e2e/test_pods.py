"""The compiled pipeline's stages as a cluster starts them: a fresh folder for each pod, one work volume."""

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from pipelines import ir
from pipelines.compilation import compile_pipeline
from pipelines.local.task_files import Artifact, executor_input, read_outputs
from reid.tracking.store import KFP_RUN, PARENT, connect
from tests.e2e.test_pipeline import SPEC

EPOCHS = 30


class Pods:
    """Starts the stages of one run of Kubeflow Pipelines."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.tracking_uri = f"sqlite:///{folder}/mlflow.db"
        compile_pipeline(folder / "pipeline.yaml", spec_text="")
        self.tasks = {task.stage: task for task in ir.load(folder / "pipeline.yaml").tasks}

    def start(self, stage: str, pod: str, parameters: dict[str, ir.Value], artifacts: dict[str, Path]) -> Path:
        """Starts one pod; its folder, in which log.txt grows."""
        place = self.folder / pod
        place.mkdir()
        ports = executor_input(
            self.tasks[stage],
            parameters=parameters,
            artifacts={name: Artifact(path, "system.Dataset") for name, path in artifacts.items()},
            folder=place,
            file_names={},
        )
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_RUN")}
        environment |= {
            **self.tasks[stage].environment,
            "MLFLOW_TRACKING_URI": self.tracking_uri,
            "KFP_RUN_ID": "run-1",
        }
        if "REID_WORK_DIR" in environment:
            environment["REID_WORK_DIR"] = str(self.folder / "work")  # where the claim is mounted
        with (place / "log.txt").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self.tasks[stage].command[1:-1], json.dumps(ports)], env=environment, stderr=log
            )
        return place


@pytest.mark.slow
def test_a_train_step_whose_node_dies_resumes_in_the_next_pod_and_in_its_mlflow_run(tmp_path: Path) -> None:
    pods = Pods(tmp_path)
    text = SPEC.format(folder=tmp_path).replace("num_epochs: 2", f"num_epochs: {EPOCHS}")
    first = pods.start("validate", "validate", {"spec": text, "gpus": "0", "embedding_gpus": "0"}, {})
    assert pods.process.wait(timeout=240) == 0, (first / "log.txt").read_text()
    given = read_outputs(pods.tasks["validate"], first, {})
    parameters = {"spec": given.parameters["manifest_spec"], "fingerprint": given.parameters["fingerprint"]}
    listing = pods.start("manifest", "manifest", parameters, {})
    assert pods.process.wait(timeout=240) == 0, (listing / "log.txt").read_text()
    data = {"dataset": read_outputs(pods.tasks["manifest"], listing, {}).artifacts["dataset"].path}
    parameters |= {"spec": given.parameters["train_spec"]}

    lost = pods.start("train", "train-pod-1", parameters, data)
    deadline = time.monotonic() + 240
    while not re.search(r"epoch [3-9]/", (lost / "log.txt").read_text()):
        assert pods.process.poll() is None and time.monotonic() < deadline, (lost / "log.txt").read_text()
        time.sleep(0.1)
    pods.process.kill()
    pods.process.wait()
    assert not (lost / "model").exists()

    second = pods.start("train", "train-pod-2", parameters, data)
    assert pods.process.wait(timeout=400) == 0, (second / "log.txt").read_text()
    continued = re.search(rf"continuing from epoch (\d+) of {EPOCHS}", (second / "log.txt").read_text())
    assert continued is not None and int(continued[1]) >= 2
    assert {"reid_model_best.pth", "reid_model_latest.pth", f"model_epoch_{EPOCHS - 1:03d}.pth"} <= {
        path.name for path in (second / "model").iterdir()
    }
    left = tmp_path / "work" / "run-1" / "train" / "model" / "reid_model_latest.pth"
    assert left.exists()  # until it is known that the launcher could upload what the pod delivered

    parameters |= {"spec": given.parameters["export_spec"]}
    third = pods.start("export", "export-pod", parameters, data | {"model": second / "model"})
    assert pods.process.wait(timeout=240) == 0, (third / "log.txt").read_text()
    assert list((tmp_path / "work").iterdir()) == []
    client = connect(pods.tracking_uri)
    place = [client.get_experiment_by_name("e2e").experiment_id]
    (parent,) = client.search_runs(place, f"tags.`{KFP_RUN}` = 'run-1'")
    nested = client.search_runs(place, f"tags.`{PARENT}` = '{parent.info.run_id}'")
    assert {run.data.tags["stage"]: run.info.status for run in nested} == dict.fromkeys(
        ("validate", "manifest", "train", "export"), "FINISHED"
    )
    assert parent.info.status == "FINISHED"
    assert parent.data.params["train.num_epochs"] == str(EPOCHS)
    for run_id, name in (
        (next(run for run in nested if run.data.tags["stage"] == "train").info.run_id, "train_loss"),
        (parent.info.run_id, "train/train_loss"),
    ):
        assert sorted(row.step for row in client.get_metric_history(run_id, name)) == list(range(1, EPOCHS + 1))
