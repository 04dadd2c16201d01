"""Trainings that are killed or stopped, alone and as two processes, and end as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from reid.data.market1501 import Manifest
from reid.model.checkpoint import load_model
from reid.thresholds import Thresholds
from reid.training.resume import newest_checkpoint
from tests.drawn_persons import write_persons

PROCESS = """
import logging, sys
from pathlib import Path
from reid.stages.train import train
from reid.tracking.stage_run import StageRun
from tests.drawn_persons import small_spec
logging.basicConfig(level="INFO", format="%(message)s")
folder, model, *overrides = sys.argv[1:]
try:
    train(small_spec(Path(folder), *overrides), dataset=Path(folder) / "data/dataset.json", model=Path(model),
          report=Path(model) / "report.html", run=StageRun.none())
except KeyboardInterrupt:
    sys.exit(130)
"""
REPOSITORY = Path(__file__).parents[2]
EVERYTHING = (
    "train.num_epochs=8",
    "model.with_center_loss=true",
    "train.optim.lr_scheduler=AutoReduce",
    "train.optim.lr_monitor=train_loss",
    "train.ema_decay=0.9",
)
"""With all that has a state: centres, plateau, averaged weights, dropout (in the small spec), AdamW."""
TIMES = {"seconds", "images_per_second", "validation_seconds"}
ALONE_AND_TOGETHER = pytest.mark.parametrize("processes", [1, 2], ids=["alone", "two processes"])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Holds the data set and, from the first training on, its decoded images."""
    folder = tmp_path_factory.mktemp("interrupted")
    write_persons(folder / "data")
    return folder


@pytest.fixture(scope="module")
def straight(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """The model directories of trainings that never stopped, by their number of processes."""
    models = {}
    for processes in (1, 2):
        models[processes] = tmp_path_factory.mktemp("straight")
        finish(folder, models[processes], *EVERYTHING, f"train.cpu_processes={processes}")
    return models


def start(folder: Path, model: Path, *overrides: str) -> "subprocess.Popen[str]":
    """A training in a process of its own."""
    model.mkdir(exist_ok=True)
    with (model / "log.txt").open("a") as log:
        return subprocess.Popen(
            [sys.executable, "-c", PROCESS, str(folder), str(model), *overrides],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"},
            stderr=log,
            text=True,
        )


def finish(folder: Path, model: Path, *overrides: str) -> str:
    """Trains to the end; what was logged, of all attempts."""
    process = start(folder, model, *overrides)
    status, said = process.wait(), (model / "log.txt").read_text()
    assert status == 0, said
    return said


def wait_for(path: Path, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + 120
    while not path.exists():
        assert process.poll() is None, (path.parent / "log.txt").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.002)


def latest(model: Path) -> dict[str, Any]:
    content: dict[str, Any] = torch.load(model / "reid_model_latest.pth", weights_only=True)
    return content


def assert_ends_alike(one: Path, other: Path) -> None:
    """Weights, their average, centres, optimizer and plateau to the last bit; the history but for its times."""
    ours, theirs = latest(one), latest(other)
    for entry in ("state_dict", "ema"):
        assert ours[entry].keys() == theirs[entry].keys()
        for name, tensor in ours[entry].items():
            assert torch.equal(tensor, theirs[entry][name]), name
    for index, state in ours["optimizer_states"][0]["state"].items():
        for name, value in state.items():
            assert torch.equal(value, theirs["optimizer_states"][0]["state"][index][name]), name
    assert ours["plateau"] == theirs["plateau"]
    rows = [json.loads((model / "history.json").read_text()) for model in (one, other)]
    timeless = [[{k: v for k, v in row.items() if k not in TIMES} for row in r] for r in rows]
    assert timeless[0] == timeless[1]


@pytest.mark.slow
@ALONE_AND_TOGETHER
def test_kill_9_at_any_instant_leaves_a_training_that_ends_bit_equal(folder, straight, tmp_path, processes):
    """A checkpoint after every step, so that nearly every start is in the middle of an epoch."""
    overrides = (*EVERYTHING, f"train.cpu_processes={processes}", "train.checkpoint_minutes=1e-9")
    rng, positions = np.random.default_rng(), []
    for kill in range(5):
        before = newest_checkpoint(tmp_path)
        process = start(folder, tmp_path, *overrides)
        wait_for(tmp_path / "reid_model_latest.pth", process)
        if before:  # it has done at least one step more
            stamp = (tmp_path / "reid_model_latest.pth").stat().st_mtime_ns
            while (tmp_path / "reid_model_latest.pth").stat().st_mtime_ns == stamp and process.poll() is None:
                time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.wait()
        newest = newest_checkpoint(tmp_path)
        assert newest is not None
        positions.append((newest.epochs_done, newest.step))
        assert kill == 0 or positions[-1] > positions[-2]
    said = finish(folder, tmp_path, *overrides)
    assert "trying the checkpoint before it" not in said
    assert_ends_alike(straight[processes], tmp_path)
    assert any(step for _, step in positions), positions


@pytest.mark.slow
@ALONE_AND_TOGETHER
@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_stopped_training_resumes_from_the_step_it_was_at(folder, straight, tmp_path, sent, processes):
    """Stopped three times within its grace time, in steps or in a validation, sent to all its processes."""
    overrides = (*EVERYTHING, f"train.cpu_processes={processes}")
    rng = np.random.default_rng()
    for epoch in (0, 2, 4):
        process = start(folder, tmp_path, *overrides)
        wait_for(tmp_path / f"model_epoch_{epoch:03d}.pth", process)
        time.sleep(rng.uniform(0, 0.2))
        process.send_signal(sent)
        assert process.wait(timeout=20) == 130, (tmp_path / "log.txt").read_text()
    said = finish(folder, tmp_path, *overrides)
    assert_ends_alike(straight[processes], tmp_path)
    stopped = re.findall(rf"{sent.name}: stopping after this step, with a checkpoint", said)
    assert len(stopped) == 3
    assert len(re.findall(r"reid_model_latest.pth: after step \d of epoch \d", said)) == 3
    assert len(re.findall(r"continuing from epoch \d of 8, step \d of the next", said)) == 3


@pytest.mark.slow
def test_two_processes_write_what_one_writes_and_report_what_it_holds(folder, straight, tmp_path):
    from reid.stages.evaluate import evaluate
    from reid.stages.inference import inference
    from reid.tracking.stage_run import StageRun
    from tests.drawn_persons import small_spec

    one, two = ({re.sub(r"\d", "n", file.name) for file in straight[processes].iterdir()} for processes in (1, 2))
    assert one == two
    manifest = Manifest.load(folder / "data/dataset.json")
    assert (len(manifest.query) + len(manifest.gallery) - 1) % 5
    written, figures = [], []
    for processes in (1, 2):
        (tmp_path / f"{processes}").mkdir()
        sizes = (
            "dataset.val_batch_size=5",
            f"evaluate.cpu_processes={processes}",
            f"inference.cpu_processes={processes}",
        )
        arguments = {"dataset": folder / "data/dataset.json", "model": straight[2], "run": StageRun.none()}
        results = {"results": tmp_path / f"{processes}", "report": tmp_path / f"{processes}/report.html"}
        outcome = evaluate(small_spec(folder, *sizes), **arguments, **results)
        inference(small_spec(folder, *sizes), **arguments, embeddings=tmp_path / f"{processes}.json")
        figures.append({name: value for name, value in outcome.metrics.items() if "second" not in name})
        written.append((tmp_path / f"{processes}.json").read_text())
    assert figures[0] == figures[1]
    assert written[0] == written[1]
    # the validation of the best epoch, shared by two processes, is what one evaluates
    best = max(json.loads((straight[2] / "history.json").read_text())[1:], key=lambda row: row["mAP"])
    assert figures[0]["mAP"] == pytest.approx(best["mAP"], abs=1e-6)
    held, found = load_model(straight[2] / "reid_model_best.pth").thresholds, outcome.parameters["thresholds"]
    cosines = [row.cosine for row in Thresholds.from_json(found).rows]
    assert [row.cosine for row in held.rows] == pytest.approx(cosines, abs=1e-4)  # steps of 1.5e-5
