"""A tiny pipeline is run, and run again by `reid reproduce`: equal to the last bit on this machine with one thread."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

SPEC = """
results_dir: {folder}/results
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: null}}
dataset:
  synthetic: {{root: {folder}/data, train_persons: 8, test_persons: 4, distractors: 1, junk: 1, images_per_camera: 2}}
  num_classes: 8
  batch_size: 16
  padding: 4
re_ranking: {{k1: 8, k2: 3}}
train: {{num_epochs: 1, optim: {{name: AdamW, base_lr: 0.002}}}}
mlflow: {{experiment: again, registered_model: reid-again}}
"""


def run(folder: Path, *words: str) -> tuple[int, str]:
    environment = {**os.environ, "MLFLOW_TRACKING_URI": f"sqlite:///{folder}/mlflow.db", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", *words],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout


@pytest.mark.slow
def test_a_run_is_reproduced_to_the_last_bit_and_a_changed_image_is_noticed(tmp_path):
    (tmp_path / "tiny.yaml").write_text(SPEC.format(folder=tmp_path), encoding="utf-8")
    status, said = run(tmp_path, "pipelines", "--spec", str(tmp_path / "tiny.yaml"), "--runner", "process")
    assert status == 0, said
    record = next((tmp_path / "results" / "runs").glob("*.json"))
    run_id = json.loads(record.read_text())["mlflow_run_id"]
    status, said = run(tmp_path, "reid", "reproduce", run_id, "--check")
    assert (status, "decides the numbers" in said, "may change" in said) == (0, False, False), said
    assert "note: OMP_NUM_THREADS=1 is set as it was" in said
    status, said = run(tmp_path, "reid", "reproduce", run_id, "--results", str(tmp_path / "again"))
    assert status == 0, said
    assert " stages are equal to the last bit\n" in said

    image = next((tmp_path / "data" / "query").glob("*.jpg"))
    image.write_bytes(image.read_bytes() + b"\0")
    status, said = run(tmp_path, "reid", "reproduce", str(record))
    assert status == 2, said
    assert f"{record}: cannot be reproduced here, for these differ: data_fingerprint\n" in said
