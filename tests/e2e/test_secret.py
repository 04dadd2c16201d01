"""Nothing that an encrypted run wrote, printed or started shows a secret, and its models open with its key alone."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from reid.files.encryption import decrypt
from tests.mlflow_server import MlflowServer, free_port

KEY = "open-sesame-4711"
WORD = "not-to-be-seen-"
"""Begins every other secret."""
ENVIRONMENT = {
    "KFP_TOKEN": f"{WORD}kfp-token",
    "KFP_COOKIES": f"session={WORD}kfp-cookie",
    "HTTP_PROXY": f"http://me:{WORD}proxy@127.0.0.1:9",
    "HTTPS_PROXY": f"http://me:{WORD}proxy@127.0.0.1:9",
    "NO_PROXY": "127.0.0.1",
    "AWS_SECRET_ACCESS_KEY": f"{WORD}s3",
    "HF_TOKEN": f"{WORD}hub",
    "PIP_INDEX_URL": f"https://me:{WORD}index@127.0.0.1:9/simple",
}
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


def shows_a_secret(content: bytes) -> bool:
    return KEY.encode() in content or WORD.encode() in content


def files_with(secret: str, folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


@contextmanager
def command_lines() -> Iterator[set[bytes]]:
    """What `ps` could show of any process meanwhile."""
    found: set[bytes] = set()
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.05):
            for path in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    found.add(path.read_bytes())
                except OSError:  # it has just ended
                    continue

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        over.set()
        watching.join()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a finished pipeline run, its spec and its MLflow store."""
    folder = tmp_path_factory.mktemp("secret")
    (folder / "spec.yaml").write_text(SPEC.format(folder=folder, key=KEY), encoding="utf-8")
    (folder / "server").mkdir()
    server = MlflowServer(folder / "server").start()
    store = server.uri.replace("://", f"://me:{WORD}store@")
    try:
        with command_lines() as seen:
            arguments = ["pipelines.run", "--spec", str(folder / "spec.yaml")]
            done = reid(*arguments, MLFLOW_TRACKING_URI=store, **ENVIRONMENT)
    finally:
        server.kill()
    assert done.returncode == 0, done.stdout + done.stderr
    assert not shows_a_secret((done.stdout + done.stderr).encode())
    assert any(b"components.entry\0train" in line for line in seen)
    assert [line for line in seen if shows_a_secret(line)] == []
    yield folder


@pytest.mark.slow
def test_no_file_of_a_pipeline_run_holds_a_secret(folder: Path) -> None:
    assert files_with(WORD, folder) == []
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


@pytest.mark.slow
@pytest.mark.parametrize("name", ["KFP_ENDPOINT", "MLFLOW_TRACKING_URI"])
def test_the_error_about_a_server_that_is_away_shows_no_secret(folder: Path, name: str) -> None:
    away = {name: f"http://me:{WORD}away@127.0.0.1:{free_port()}"}
    done = reid("pipelines.run", "--spec", str(folder / "spec.yaml"), "export.encrypted=false", **ENVIRONMENT, **away)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "error: " in done.stderr
    assert not shows_a_secret((done.stdout + done.stderr).encode())


@pytest.mark.slow
def test_the_compiled_pipeline_holds_no_secret(folder: Path) -> None:
    arguments = ["--spec", str(folder / "spec.yaml"), "--compile-only", str(folder / "compiled.yaml")]
    done = reid("pipelines.run", *arguments, **ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    assert "the encryption key is not sent" in done.stderr
    assert not shows_a_secret((folder / "compiled.yaml").read_bytes() + (done.stdout + done.stderr).encode())
