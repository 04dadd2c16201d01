"""An encrypted run: nothing that it wrote holds the key, and its models open with that key alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reid.files.encryption import decrypt

KEY = "open-sesame-4711"
SPEC = """
results_dir: {folder}/results
encryption_key: {key}
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: null}}
dataset:
  synthetic: {{root: {folder}/data, train_persons: 8, test_persons: 6, distractors: 2, junk: 2, images_per_camera: 1}}
  num_classes: 8
  batch_size: 8
re_ranking: {{k1: 5, k2: 2}}
train: {{num_epochs: 1}}
export: {{encrypted: true}}
"""


def reid(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", *arguments]
    values = {name: value for name, value in os.environ.items() if name != "REID_ENCRYPTION_KEY"} | environment
    return subprocess.run(command, env=values, capture_output=True, text=True, timeout=300, check=False)


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished pipeline run, its spec and its MLflow store."""
    folder = tmp_path_factory.mktemp("secret")
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder, key=KEY), encoding="utf-8")
    store = f"sqlite:///{folder}/mlflow.db"
    done = reid("pipelines.run", "--spec", str(folder / "spec.yaml"), MLFLOW_TRACKING_URI=store)
    assert done.returncode == 0, done.stdout + done.stderr
    assert KEY not in done.stdout + done.stderr
    return folder


@pytest.mark.slow
def test_no_file_of_a_pipeline_run_holds_the_key(folder: Path) -> None:
    assert files_with(KEY, folder) == [folder / "spec.yaml"]
    latest = folder / "results/latest/train/model/reid_model_latest.pth"
    assert latest.read_bytes().startswith(b"REIDENC1")


@pytest.mark.slow
def test_no_file_of_a_pipeline_run_holds_the_network_in_the_clear(folder: Path) -> None:
    assert files_with("BatchNormalization", folder) == []  # an operator of every ONNX of ours
    onnx = folder / "results/latest/export/model.onnx"
    assert b"BatchNormalization" in decrypt(onnx, KEY).getvalue()
    registered = [path for path in folder.rglob("model.onnx.encrypted") if path.read_bytes() == onnx.read_bytes()]
    assert len(registered) == 1


@pytest.mark.slow
def test_a_task_opens_the_model_with_the_key_and_with_no_other(folder: Path) -> None:
    model = folder / "results/latest/train/model"
    arguments = ["reid", "inference", "-e", str(folder / "spec.yaml"), f"inference.checkpoint={model}"]
    done = reid(*arguments)
    assert done.returncode == 0, done.stderr
    best = model / "reid_model_best.pth"
    wrong = reid(*arguments, REID_ENCRYPTION_KEY="open barley")
    assert wrong.returncode == 2
    assert wrong.stderr.splitlines()[-1] == (
        f"error: {best}: the key is not the one it was encrypted with, or the file was changed"
    )
    missing = reid(*arguments, "encryption_key=null")
    assert missing.returncode == 2
    assert missing.stderr.splitlines()[-2:] == [
        f"error: {best}: encrypted, and no key is given",
        "  want: encryption_key, or REID_ENCRYPTION_KEY set",
    ]
