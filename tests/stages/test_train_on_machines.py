"""Trainings as a user types them on several machines: torchrun, and two agents that meet on loopback as two pods do."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.drawn_persons import GALLERY, QUERY, TRAIN, write_persons

REPOSITORY = Path(__file__).parents[2]
SPEC = """
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: 32,
         dropout_rate: 0.2}}
dataset:
  {{train_dataset_dir: {data}/{train}, query_dataset_dir: {data}/{query}, test_dataset_dir: {data}/{gallery},
    num_classes: null, batch_size: 16, num_instances: 4, padding: 3, val_batch_size: 32, store_dir: {data}/store}}
train:
  num_epochs: 12
  seed: 3
  validation_interval: 6
  checkpoint_minutes: 1e-9
  optim: {{name: AdamW, base_lr: 0.003, warmup_iters: 0, lr_steps: []}}
"""


@pytest.fixture(scope="module")
def spec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("machines")
    write_persons(folder / "data")
    file = folder / "spec.yaml"
    file.write_text(SPEC.format(data=folder / "data", train=TRAIN, query=QUERY, gallery=GALLERY))
    return file


@pytest.fixture(scope="module")
def of_one_machine(spec: Path) -> dict[str, torch.Tensor]:
    """The weights of two processes of one machine."""
    task = start(spec, "one", "train.cpu_processes=2")
    assert task.wait() == 0, said(spec, "one")
    return weights(spec, "one")


def start(
    spec: Path, name: str, *overrides: str, under: tuple[str, ...] = (), **environment: str
) -> "subprocess.Popen[bytes]":
    """The task train with results of its own; what it says goes to a file."""
    command = ["-m", "reid", "train", "-e", str(spec), f"results_dir={spec.parent / name}", *overrides]
    own = {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1", **environment}
    with (spec.parent / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, *under, *command], cwd=REPOSITORY, env={**os.environ, **own}, stdout=log, stderr=log
        )


def machines(spec: Path, *overrides: str) -> list["subprocess.Popen[bytes]"]:
    """The tasks of two machines; the second has no results folder in common with the first."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    there = {"PET_NNODES": "2", "PET_NPROC_PER_NODE": "1", "PET_MASTER_ADDR": "127.0.0.1", "PET_MASTER_PORT": port}
    names = ("first", "second")
    return [start(spec, name, *overrides, **there, PET_NODE_RANK=str(n)) for n, name in enumerate(names)]


def said(spec: Path, name: str) -> str:
    return (spec.parent / f"{name}.log").read_text()


def weights(spec: Path, name: str) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(
        spec.parent / name / "train" / "reid_model_latest.pth", weights_only=True
    )["state_dict"]
    return state


def assert_equal(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        assert torch.equal(found[name], tensor), name


def wait_for(path: Path, task: "subprocess.Popen[bytes]", spec: Path) -> None:
    deadline = time.monotonic() + 240
    while not path.exists():
        assert task.poll() is None, said(spec, "first")
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.slow
def test_torchrun_starts_the_ranks_and_gives_the_same_weights(spec, of_one_machine):
    torchrun = ("-m", "torch.distributed.run", "--nnodes=1", "--nproc-per-node=2")
    assert start(spec, "torchrun", under=torchrun).wait() == 0, said(spec, "torchrun")
    assert_equal(weights(spec, "torchrun"), of_one_machine)
    assert said(spec, "torchrun").count("epoch 12/12: ") == 1


@pytest.mark.slow
def test_two_machines_of_which_one_is_lost_or_stopped_resume_bit_equal(spec, of_one_machine):
    model = spec.parent / "first" / "train"
    tasks = machines(spec)
    wait_for(model / "model_epoch_001.pth", tasks[0], spec)
    tasks[1].kill()
    tasks[1].wait()
    assert tasks[0].wait(timeout=60) == 1
    error, found, want = said(spec, "first").rstrip().splitlines()[-3:]
    assert error == "error: rank 0 of 2 lost its connection to another rank"
    assert re.fullmatch(r"  found: \w+Error: .+", found)  # in torch's words
    assert want == (
        "  want:  the log of that rank, perhaps on another machine; then run the task again on all machines"
    )
    assert "Traceback" not in said(spec, "first")
    tasks = machines(spec)
    wait_for(model / "model_epoch_004.pth", tasks[0], spec)
    tasks[1].send_signal(signal.SIGTERM)
    assert [task.wait(timeout=60) for task in tasks] == [130, 130]
    assert f"interrupted; the next run resumes from {model}/reid_model_latest.pth" in said(spec, "first")
    tasks = machines(spec)
    assert [task.wait() for task in tasks] == [0, 0], said(spec, "first") + said(spec, "second")
    assert_equal(weights(spec, "first"), of_one_machine)
    assert not (spec.parent / "second").exists()
    tasks = machines(spec)  # finished: the second machine is told so
    assert [task.wait(timeout=120) for task in tasks] == [0, 0]


@pytest.mark.slow
def test_a_mistake_on_the_first_machine_ends_the_others(spec):
    tasks = machines(spec, "dataset.query_dataset_dir=/not/there")
    assert [task.wait(timeout=240) for task in tasks] == [2, 1]
    assert (
        said(spec, "second")
        .rstrip()
        .endswith("error: the first machine has ended before the ranks were needed; its log says why")
    )
