"""What each field of the spec's section `train` does, but those of `train.optim`."""

import json
import logging
import shutil
import sysconfig
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reid.distributed.devices import ComputePlan, compiled, plan_training
from reid.errors import SpecError
from reid.training.resume import LATEST
from tests.spec.lab import Lab


def _gpus_wanted(lab: Lab, *overrides: str) -> str:
    """What a machine of one GPU says."""
    lab.patch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(SpecError) as caught:
        lab.train_in(lab.folder, *overrides)
    return str(caught.value).splitlines()[0]


AS_EVER = "channels last, not compiled; images augmented on the CPU"


def trained_on(said: list[str]) -> str:
    """What the log says of the device."""
    (line,) = (text for text in said if text.startswith("training on "))
    return line.removeprefix("training on ")


def num_gpus(lab: Lab) -> None:
    assert _gpus_wanted(lab, "train.num_gpus=2") == (
        "train.num_gpus, train.gpu_ids: GPUs [0, 1] are asked for, 1 of them are not there"
    )
    with pytest.raises(SpecError) as caught:
        lab.spec("train.num_gpus=3")
    assert str(caught.value) == (
        "spec: dataset.batch_size: 8 is not divisible by dataset.num_instances = 2 x 3 GPUs; nearest: 6 and 12"
    )


def gpu_ids(lab: Lab) -> None:
    assert _gpus_wanted(lab, "train.gpu_ids=[5]") == (
        "train.num_gpus, train.gpu_ids: GPUs [5] are asked for, 1 of them are not there"
    )
    lab.patch.setattr(torch.cuda, "device_count", lambda: 0)
    said = lab.said(lambda: lab.train_in(lab.folder / "cpu", "train.gpu_ids=[5]"))
    assert "no GPU here: running on the CPU" in said
    assert trained_on(said) == f"the CPU, 1 threads, precision 32-true, {AS_EVER}"


def cpu_processes(lab: Lab) -> None:
    """Each has half of the batch: with statistics of its own half the weights are others."""
    said = lab.said(lambda: lab.train_in(lab.folder, "train.cpu_processes=2"))
    assert trained_on(said) == f"the CPU, 1 threads in each of 2 processes, precision 32-true, {AS_EVER}"
    with pytest.raises(SpecError) as caught:
        lab.spec("train.cpu_processes=3")
    assert str(caught.value) == (
        "spec: dataset.batch_size: 8 is not divisible by dataset.num_instances = 2 x 3 processes; nearest: 6 and 12"
    )


def checkpoint_minutes(lab: Lab) -> None:
    """Every step, and never; the end of an epoch has its own."""
    for minutes, times in ((1e-9, 3), (0, 0)):
        said = lab.said(lambda: lab.train_in(lab.folder / f"{minutes}", f"train.checkpoint_minutes={minutes}"))  # noqa: B023
        assert len([text for text in said if ": after step" in text]) == times


def num_nodes(lab: Lab) -> None:
    """The nodes share the batch."""
    with pytest.raises(SpecError) as caught:
        lab.spec("train.num_nodes=3")
    assert str(caught.value) == (
        "spec: dataset.batch_size: 8 is not divisible by dataset.num_instances = 2 x 3 nodes; nearest: 6 and 12"
    )


def _weights(checkpoint: dict[str, Any]) -> torch.Tensor:
    """All of the network's as one vector."""
    return torch.cat([tensor.flatten().float() for tensor in checkpoint["state_dict"].values()])


def seed(lab: Lab) -> None:
    again = lab.train_in(lab.folder)
    assert torch.equal(_weights(again.checkpoint), _weights(lab.train().checkpoint))
    assert not torch.equal(_weights(lab.train("train.seed=4").checkpoint), _weights(lab.train().checkpoint))
    rows = [lab.batch(f"train.seed={value}").step.indices.tolist() for value in (3, 4)]
    assert rows[0] != rows[1]


def num_epochs(lab: Lab) -> None:
    assert [len(lab.train(f"train.num_epochs={count}").epochs) for count in (1, 4)] == [1, 4]


def checkpoint_interval(lab: Lab) -> None:
    for trained, epochs in (
        (lab.train("train.num_epochs=4"), [0, 1, 2, 3]),
        (lab.train("train.num_epochs=4", "train.checkpoint_interval=3"), [2, 3]),
    ):
        names = sorted(path.name for path in trained.folder.glob("model_epoch_*.pth"))
        assert names == [f"model_epoch_00{epoch}.pth" for epoch in epochs]


def validation_interval(lab: Lab) -> None:
    for trained, epochs in (
        (lab.train("train.num_epochs=4"), [0, 1, 2, 3]),
        (lab.train("train.num_epochs=4", "train.validation_interval=3"), [2, 3]),
    ):
        assert [row["epoch"] for row in trained.epochs if "mAP" in row] == epochs


def resume_training_checkpoint_path(lab: Lab) -> None:
    named = lab.train().folder / LATEST
    resumed = [f"train.resume_training_checkpoint_path={named}", "train.num_epochs=2"]
    said = lab.said(lambda: lab.train_in(lab.folder, *resumed))
    assert f"continuing from epoch 1 of 2: {named}" in said


def results_dir(lab: Lab) -> None:
    lab.task("train", f"train.results_dir={lab.folder}/mine")
    assert (lab.folder / "mine" / LATEST).exists()


def clip_grad_norm(lab: Lab) -> None:
    # plain descent at 1 with gradients of norm 1e-4: no step moves the weights by more
    moved = []
    for norm in ("0.0", "0.0001"):
        plain = ["train.optim.name=SGD", "train.optim.momentum=0.0", "train.optim.base_lr=1.0"]
        trained = lab.train(*plain, f"train.clip_grad_norm={norm}", "train.optim.weight_decay=0")
        state = trained.checkpoint["state_dict"]
        first = lab.train("train.optim.base_lr=1e-30", "train.optim.weight_decay=0").checkpoint["state_dict"]
        moved.append(float((state["model.reduction.weight"] - first["model.reduction.weight"]).norm()))
    steps = 2
    assert moved[0] > 0.01
    assert 0 < moved[1] <= steps * 0.0001 * 1.01


def precision(lab: Lab) -> None:
    said = lab.said(lambda: lab.train_in(lab.folder, "train.precision=bf16"))
    assert trained_on(said) == f"the CPU, 1 threads, precision bf16-mixed, {AS_EVER}"
    exact, halved = (lab.train(f"train.precision={value}").epochs[0]["train_loss"] for value in ("32", "bf16"))
    assert exact != halved
    assert halved == pytest.approx(exact, rel=0.1)  # 8 bits a number


def channels_last(lab: Lab) -> None:
    """The same training in another layout; auto decides by the kind of network."""
    said = lab.said(lambda: lab.train_in(lab.folder, "train.channels_last=off"))
    assert ", channels first, " in trained_on(said)
    rows = [json.loads((folder / "history.json").read_text())[1] for folder in (lab.folder, lab.train().folder)]
    assert rows[0]["train_loss"] == pytest.approx(rows[1]["train_loss"], rel=1e-4)
    chosen = [_choice(convolutional=convolutional).channels_last for convolutional in (True, False)]
    assert chosen == [True, False]


def compiling(lab: Lab) -> None:
    """auto: for a long training on a GPU; without a compiler one line, and as it is."""
    lab.patch.setattr(sysconfig, "get_path", lambda _name: str(lab.folder))
    assert not compiled("on", on_gpu=True, images=1, ranks=1)  # nothing to compile triton's launcher against
    (lab.folder / "Python.h").touch()
    assert [compiled("auto", on_gpu=True, images=images, ranks=1) for images in (399_999, 400_000)] == [False, True]
    assert [compiled(asked, on_gpu=True, images=400_000, ranks=2) for asked in ("auto", "on")] == [False, True]
    assert not compiled("off", on_gpu=True, images=10**9, ranks=1)
    assert not _choice(images=10**9).compiled
    assert _choice(compile="on").compiled
    lab.patch.setattr(shutil, "which", lambda _name: None)
    said = lab.said(lambda: lab.train_in(lab.folder, "train.compile=on"), logging.WARNING)
    assert said == ["train.compile: without a C++ compiler the network is not compiled"]


def _choice(**changes: Any) -> ComputePlan:
    values: dict[str, Any] = {
        "precision": "auto", "channels_last": "auto", "compile": "auto", "augment_on": "auto", "convolutional": True,
        "images": 1,
    }  # fmt: skip
    return plan_training(("cpu",), **values | changes)


def fused_optimizer(lab: Lab) -> None:
    with pytest.raises(SpecError) as caught:
        lab.train_in(lab.folder, "train.fused_optimizer=on", "train.optim.name=Adamax")
    assert str(caught.value) == "command line: train.fused_optimizer: Adamax has no fused form; want auto or off"
    assert [lab.train(f"train.fused_optimizer={choice}").groups[0]["fused"] for choice in ("on", "off")] == [True, None]


def _cudnn(name: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        before = getattr(torch.backends.cudnn, name)
        try:
            for value in (True, False):
                lab.train_in(lab.folder / str(value), f"train.cudnn.{name}={value}")
                assert getattr(torch.backends.cudnn, name) is value
        finally:
            setattr(torch.backends.cudnn, name, before)

    return check


TRAIN: dict[str, Callable[[Lab], None]] = {
    "train.num_gpus": num_gpus,
    "train.gpu_ids": gpu_ids,
    "train.cpu_processes": cpu_processes,
    "train.checkpoint_minutes": checkpoint_minutes,
    "train.num_nodes": num_nodes,
    "train.seed": seed,
    "train.num_epochs": num_epochs,
    "train.checkpoint_interval": checkpoint_interval,
    "train.validation_interval": validation_interval,
    "train.resume_training_checkpoint_path": resume_training_checkpoint_path,
    "train.results_dir": results_dir,
    "train.clip_grad_norm": clip_grad_norm,
    "train.precision": precision,
    "train.channels_last": channels_last,
    "train.compile": compiling,
    "train.fused_optimizer": fused_optimizer,
    "train.cudnn.benchmark": _cudnn("benchmark"),
    "train.cudnn.deterministic": _cudnn("deterministic"),
}
