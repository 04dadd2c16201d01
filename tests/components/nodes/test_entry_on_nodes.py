"""The entry of the train stage, if the pipeline was compiled for several nodes."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from components.entry import main
from components.nodes.files import as_end, write_end
from components.nodes.job import job_name
from components.nodes.settings import Nodes
from reid.stages.outcome import Outcome
from tests.components.executor import EXECUTOR_LOGS, listed, taken
from tests.components.nodes.kubernetes_api import KubernetesApi
from tests.components.nodes.own_pod import RUN_ID

ROOT = Path(__file__).resolve().parents[3]
NAME = job_name(RUN_ID)
SPEC = "train: {num_nodes: 2}\ndataset: {batch_size: 16, num_instances: 4}\n"


def ports(folder: Path) -> str:
    """What KFP's launcher starts the train stage with."""
    artifacts = {
        "model": listed("model", str(folder / "out" / "model"), "system.Model"),
        "metrics": listed("metrics", str(folder / "out" / "metrics"), "system.Metrics"),
        "report": listed("report", str(folder / "out" / "report"), "system.HTML"),
        **EXECUTOR_LOGS,
    }
    inputs = {"parameterValues": {"spec": SPEC, "fingerprint": "f1"}, "artifacts": {}}
    inputs["artifacts"] = {"dataset": taken("dataset", str(folder / "dataset"))}
    outputs = {"artifacts": artifacts, "outputFile": str(folder / "kfp_outputs" / "output_metadata.json")}
    return json.dumps({"inputs": inputs, "outputs": outputs})


def test_what_node_0_made_is_handed_on_as_after_a_training_in_one_pod(
    api: KubernetesApi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("REID_NODES", Nodes(count=2, resources={"limits": {"memory": "1G"}}).as_text())
    (tmp_path / "dataset").write_text("{}")
    work = tmp_path / "work" / RUN_ID / "train"

    def nodes(_: dict[str, Any]) -> None:
        (work / "model").mkdir()
        (work / "model" / "reid_model_latest.pth").write_text("weights")
        (work / "report").write_text("<html>")
        write_end(work, 0, as_end(Outcome({"epochs": 3.0}, lines=["3 epochs"])))
        api.end_job(NAME, "Complete")

    api.created = nodes
    assert main(["train", "--executor-input", ports(tmp_path)]) == 0
    assert (tmp_path / "out" / "model" / "reid_model_latest.pth").read_text() == "weights"
    assert (tmp_path / "out" / "report").read_text() == "<html>"
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())["artifacts"]
    assert set(written) == {"model", "metrics", "report"}
    assert written["metrics"]["artifacts"][0]["metadata"] == {"epochs": 3.0}
    assert written["model"]["artifacts"][0]["metadata"] == {"lines": ["3 epochs"]}
    assert api.jobs[NAME]["spec"]["trainer"]["numProcPerNode"] == 1  # train.cpu_processes


def test_without_a_work_volume_it_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    monkeypatch.setenv("REID_NODES", Nodes(count=2).as_text())
    monkeypatch.delenv("REID_WORK_DIR", raising=False)
    assert main(["train", "--executor-input", ports(tmp_path)]) == 2
    assert capsys.readouterr().err == (
        "error: train.num_nodes: no work volume (REID_WORK_DIR)\n  want: a work_claim in the cluster's file\n"
    )


def test_the_pod_that_only_starts_nodes_loads_no_pytorch() -> None:
    """Its memory is booked for what the Kubernetes client needs."""
    code = "import sys; import components.entry, components.nodes.launch; print('torch' in sys.modules)"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
