"""What runs on each node: two of them on loopback, as Kubeflow Trainer starts them."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from components.nodes.files import as_end, errors_of, outcome_of, write_end, write_request
from components.nodes.node import main
from reid.data.file_index import hash_images
from reid.spec import load_spec
from reid.stages.images_seen import look_at_images
from reid.stages.manifest import manifest as list_images
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun
from tests.small_market import write_market

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def request_file(tmp_path: Path) -> Path:
    """What the stage writes for a training of one epoch on a few noise images."""
    root = write_market(tmp_path / "market")
    folders = {"train": "bounding_box_train", "query": "query", "test": "bounding_box_test"}
    spec = {
        "results_dir": str(tmp_path / "results"),
        "model": {"backbone": "timm/test_resnet", "pretrain_choice": "", "input_width": 32, "input_height": 64},
        "dataset": {
            **{f"{name}_dataset_dir": str(root / folder) for name, folder in folders.items()},
            "num_classes": 3,
            "batch_size": 4,
            "num_instances": 2,
            "num_workers": 0,
        },
        "train": {"num_nodes": 2, "num_epochs": 1},
    }
    text, manifest = yaml.safe_dump(spec), tmp_path / "manifest.json"
    loaded = load_spec(text=text, overrides=[])
    seen = look_at_images(loaded, missing={}, read=hash_images, with_test_sets=True)
    list_images(loaded, fingerprint=seen.fingerprint, dataset=manifest, run=StageRun.none())
    return write_request(tmp_path / "work", spec=text, dataset=manifest)


def environment(node: int, port: int) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")},
        "PYTHONPATH": str(ROOT),
        "PET_NNODES": "2",
        "PET_NPROC_PER_NODE": "1",
        "PET_NODE_RANK": str(node),
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(port),
        "OMP_NUM_THREADS": "1",
    }


def start(request_file: Path, node: int, port: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "components.nodes.node", str(request_file)]
    return subprocess.Popen(
        command, env=environment(node, port), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


@pytest.mark.slow
def test_two_nodes_train_one_model_and_only_the_first_writes_and_says_so(request_file: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    nodes = [start(request_file, number, port) for number in range(2)]
    said = [node.communicate(timeout=180)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    work = request_file.parent
    outcome = outcome_of(work)
    assert outcome is not None
    assert outcome.metrics["epochs"] == 1
    assert (work / "model" / "reid_model_latest.pth").exists()
    assert (work / "report").read_text().startswith("<!")
    assert [file.name for file in (work / "nodes").iterdir()] == ["0.json"]
    assert "epoch 1/1: loss" in said[0]
    assert "epoch 1/1: loss" not in said[1]


def test_a_node_that_starts_again_after_the_training_is_finished_has_nothing_to_do(
    request_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    write_end(request_file.parent, 0, as_end(Outcome({"epochs": 1.0})))
    assert main([str(request_file)]) == 0


def test_an_error_that_the_user_can_correct_stands_in_the_nodes_file(
    request_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    request_file.write_text(json.dumps({"spec": "train: {epochs: 1}"}))
    assert main([str(request_file)]) == 2
    ((node, (status, text)),) = errors_of(request_file.parent).items()
    assert (node, status) == (1, 2)
    assert text == "spec: train.epochs: unknown key; did you mean train.num_epochs?"
    assert capsys.readouterr().err == f"error: {text}\n"


def test_a_node_that_does_not_see_the_volume_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PET_NODE_RANK", "1")
    assert main([str(tmp_path / "request.json")]) == 2
    assert capsys.readouterr().err == (
        f"error: {tmp_path}/request.json: this node cannot read what the train stage wrote (FileNotFoundError:"
        f" [Errno 2] No such file or directory: '{tmp_path}/request.json')\n"
        "  want: a work volume that all nodes mount at once (ReadWriteMany)\n"
    )
