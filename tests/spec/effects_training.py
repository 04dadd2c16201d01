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


def epoch_length(lab: Lab) -> None:
    # 4 persons of 6 images: 2 groups of 4 each, the second filled up; or 1 whole group each, 2 persons in a batch
    for value, steps in (("images", 4), ("peers", 2)):
        chosen = ["dataset.num_instances=4", f"train.epoch_length={value}"]
        assert len(lab.data(*chosen).steps()) == len(lab.fit(*chosen).steps) == steps
    assert lab.warnings("dataset.sampler=softmax", "train.epoch_length=peers") == [
        "spec: train.epoch_length has no effect: dataset.sampler = softmax shuffles plainly"
    ]


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


def freeze_epochs(lab: Lab) -> None:
    """Whatever the learning rate, the frozen backbone is the untrained one, statistics included."""
    for epochs, same in ((1, True), (0, False)):
        slow, fast = (
            lab.train(f"train.freeze_epochs={epochs}", f"train.optim.base_lr={rate}").checkpoint["state_dict"]
            for rate in (0.003, 0.03)
        )
        base = [name for name in slow if name.startswith("model.base.")]
        assert all(torch.equal(slow[name], fast[name]) for name in base) is same
        assert not torch.equal(slow["model.reduction.weight"], fast["model.reduction.weight"])
    with pytest.raises(SpecError) as caught:
        lab.module("train.freeze_epochs=2", "dataset.sampler=triplet", "model.feat_dim=null")
    assert str(caught.value) == (
        "train.freeze_epochs: 2: dataset.sampler = triplet teaches the backbone only\n"
        "  want: 0; or dataset.sampler=softmax_triplet, or model.feat_dim other than the backbone's width"
    )


def ema_decay(lab: Lab) -> None:
    """The training is the same; a slower average is farther from its last weights."""
    assert "ema" not in lab.train().checkpoint
    distances = []
    for decay in ("0.0001", "0.2", "0.999"):
        kept = lab.train(f"train.ema_decay={decay}").checkpoint
        own, average = (kept[entry]["model.reduction.weight"] for entry in ("state_dict", "ema"))
        assert torch.equal(own, lab.train().checkpoint["state_dict"]["model.reduction.weight"])
        distances.append(float((own - average).norm()))
    assert 0 < 10 * distances[0] < distances[1] < distances[2]


def precision(lab: Lab) -> None:
    said = lab.said(lambda: lab.train_in(lab.folder, "train.precision=bf16"))
    assert trained_on(said) == f"the CPU, 1 threads, precision bf16-mixed, {AS_EVER}"
    exact, *halved = (lab.train(f"train.precision={value}").epochs[0] for value in ("32", "bf16", "fp16"))
    losses = [row["train_loss"] for row in halved]
    assert len({exact["train_loss"], *losses}) == 3
    assert losses == pytest.approx([exact["train_loss"]] * 2, rel=0.1)  # 8 and 11 bits a number
    assert ["skipped_steps" in row for row in (exact, *halved)] == [False, False, True]
    for capabilities, wanted in (
        ([(9, 0)], "bf16-mixed"), ([(8, 0), (7, 5)], "16-mixed"), ([(7, 0)], "16-mixed"), ([(6, 1)], "32-true"),
    ):  # fmt: skip
        assert _choice(devices=_gpus(lab, *capabilities)).precision == wanted


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
    assert not compiled("on", on_gpu=True, long=True)  # nothing to compile triton's launcher against
    (lab.folder / "Python.h").touch()
    assert [compiled("auto", on_gpu=True, long=long) for long in (False, True)] == [False, True]
    assert not compiled("off", on_gpu=True, long=True)
    assert not _choice(images=10**9).compiled
    assert _choice(compile="on").compiled
    lab.patch.setattr(shutil, "which", lambda _name: None)
    said = lab.said(lambda: lab.train_in(lab.folder, "train.compile=on"), logging.WARNING)
    assert said == ["train.compile: without a C++ compiler the network is not compiled"]


def _choice(*, devices: tuple[str, ...] = ("cpu",), **changes: Any) -> ComputePlan:
    values: dict[str, Any] = {
        "precision": "auto", "channels_last": "auto", "compile": "auto", "compile_mode": "auto",
        "compile_above_images": 400_000, "benchmark": "auto", "deterministic": "auto", "augment_on": "auto",
        "convolutional": True, "images": 1,
    }  # fmt: skip
    return plan_training(devices, **values | changes)


def _gpus(lab: Lab, *capabilities: tuple[int, int]) -> tuple[str, ...]:
    """GPUs of these compute capabilities, with all that torch.compile needs."""
    names = tuple(f"cuda:{number}" for number in range(len(capabilities)))
    lab.patch.setattr(torch.cuda, "get_device_capability", dict(zip(names, capabilities)).__getitem__)
    lab.patch.setattr(torch.cuda, "get_device_name", lambda _name: "a GPU")
    lab.patch.setattr(sysconfig, "get_path", lambda _name: str(lab.folder))
    (lab.folder / "Python.h").touch()
    return names


def compile_mode(lab: Lab) -> None:
    """auto: CUDA graphs if a GPU trains alone."""
    one, two = _gpus(lab, (9, 0)), _gpus(lab, (9, 0), (9, 0))
    chosen = [_choice(devices=devices).compile_mode for devices in (one, two, ("cpu",), ("cpu", "cpu"))]
    assert chosen == ["reduce-overhead", "default", "default", "default"]
    said = lab.said(lambda: _choice(devices=two, compile="on", compile_mode="max-autotune-no-cudagraphs"))
    assert "compiled (max-autotune-no-cudagraphs), cudnn.benchmark on, cudnn.deterministic off; " in trained_on(said)


def compile_above_images(lab: Lab) -> None:
    """Several GPUs compile as one does."""
    for devices in (_gpus(lab, (9, 0)), _gpus(lab, (9, 0), (9, 0))):
        chosen = [_choice(devices=devices, images=images).compiled for images in (399_999, 400_000)]
        assert chosen == [False, True]
        assert _choice(devices=devices, images=5, compile_above_images=5).compiled


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
                lab.train_in(lab.folder / str(value), f"train.cudnn.{name}={value}")  # as in TAO
                assert getattr(torch.backends.cudnn, name) is value
                choice = "on" if value else "off"
                assert getattr(_choice(devices=_gpus(lab, (9, 0)), **{name: choice}), name) is value
        finally:
            setattr(torch.backends.cudnn, name, before)
        on_cpu = {"benchmark": False, "deterministic": True}[name]
        chosen = [getattr(_choice(devices=devices), name) for devices in (("cpu",), _gpus(lab, (9, 0)))]
        assert chosen == [on_cpu, not on_cpu]

    return check


TRAIN: dict[str, Callable[[Lab], None]] = {
    "train.num_gpus": num_gpus,
    "train.gpu_ids": gpu_ids,
    "train.cpu_processes": cpu_processes,
    "train.checkpoint_minutes": checkpoint_minutes,
    "train.num_nodes": num_nodes,
    "train.seed": seed,
    "train.num_epochs": num_epochs,
    "train.epoch_length": epoch_length,
    "train.checkpoint_interval": checkpoint_interval,
    "train.validation_interval": validation_interval,
    "train.resume_training_checkpoint_path": resume_training_checkpoint_path,
    "train.results_dir": results_dir,
    "train.clip_grad_norm": clip_grad_norm,
    "train.freeze_epochs": freeze_epochs,
    "train.ema_decay": ema_decay,
    "train.precision": precision,
    "train.channels_last": channels_last,
    "train.compile": compiling,
    "train.compile_mode": compile_mode,
    "train.compile_above_images": compile_above_images,
    "train.fused_optimizer": fused_optimizer,
    "train.cudnn.benchmark": _cudnn("benchmark"),
    "train.cudnn.deterministic": _cudnn("deterministic"),
}
