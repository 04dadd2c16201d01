"""Two ranks on one GPU: NCCL refuses that, so they talk through gloo, on tensors that lie on the GPU.

Everything else is the product's: reid.distributed.launching starts them, reid.training.trainer trains.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
import torch.distributed as dist
from pytorch_lightning.callbacks import Callback

from reid.contract import Contract
from reid.data.module import TrainingData
from reid.distributed.devices import ComputePlan, share_the_cpu
from reid.distributed.launching import run_on_ranks
from reid.distributed.ranks import SINGLE_PROCESS, Ranks
from reid.model.embedder import build_embedder
from reid.training.chosen_losses import build_losses
from reid.training.lightning import Training
from reid.training.resume import DurableCheckpoints
from reid.training.schedule import build_optimizer, parameter_groups
from reid.training.trainer import fit, seed_everything
from tests.bench.check_place import Place
from tests.networks import network_settings

PERSONS, BATCH_SIZE, EPOCHS = 6, 16, 4


class Gradients(Callback):
    """Of every step, the norm of the gradient before clipping, the losses; of the first one, the gradient."""

    def __init__(self) -> None:
        self.gradients: list[torch.Tensor] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_end(
        self, _trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, _idx: int
    ) -> None:
        """Lightning calls it."""
        if not self.gradients:
            parts = [p.grad.float().flatten() for p in module.parameters() if p.grad is not None]
            self.gradients.append(torch.cat(parts).clone())
        self.figures.append({name: float(value) for name, value in outputs.items()})


def train(
    *,
    folder: str,
    device: str,
    precision: str,
    sampler: str,
    optimizer: str,
    backbone: str,
    ranks: Ranks,
    **_: Any,
) -> None:
    """Some steps on noise images, batch 16; rank 0 writes the first gradient, all figures and the weights."""
    if ranks.size > 1:
        _talk_through_gloo()
    share_the_cpu((device,) * ranks.size)
    torch.backends.cudnn.deterministic, torch.backends.cudnn.allow_tf32 = True, False
    seed_everything(0)
    size = {"height": 128, "width": 64} if backbone.startswith("resnet") else {"height": 64, "width": 32}
    network = build_embedder(**network_settings(backbone=backbone, num_classes=PERSONS, **size))
    losses = build_losses(
        sampler=sampler, metric_loss_type="triplet_center", with_center_loss=True, label_smooth=True,
        id_loss_type="softmax", cosine_margin=0.5, cosine_scale=30.0,
        triplet_loss_margin=0.3, num_classes=PERSONS, embedding_size=network.embedding_size,
    )  # fmt: skip

    def build(module: torch.nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module, base_lr=0.001, weight_decay=5e-4, bias_lr_factor=2.0, weight_decay_bias=5e-4, large_fc_lr=False
        )
        return build_optimizer(optimizer, groups, 0.9)

    module = Training(
        network, losses, optimizer=build, epoch_factor=lambda _epoch, _share: 1.0, plateau=None,
        plateau_watches="val_loss", clip_grad_norm=5.0, center_lr=0.5,
        loss_weights={"cross_entropy": 1.0, "triplet": 1.0, "center": 0.01}, unit_triplet=False, ema_decay=0.0,
        freeze_epochs=0, seed=0,
    )  # fmt: skip
    label = np.repeat(np.arange(PERSONS), [5, 8, 4, 4, 8, 6])
    pixels = np.random.default_rng(0).integers(0, 256, (len(label), size["height"], size["width"], 3), np.uint8)
    data = TrainingData(
        pixels, label, contract=Contract(*size.values(), 3, (0.5,) * 3, (0.2,) * 3, network.embedding_size),
        batch_size=BATCH_SIZE, num_instances=None if sampler == "softmax" else 4, num_workers=0, seed=0,
        padding=4, flip_probability=0.5, erasing_probability=0.5, on_device=device != "cpu",
    )  # fmt: skip
    seen = Gradients()
    names = (device,) * ranks.size if device == "cpu" else tuple(f"cuda:{rank}" for rank in range(ranks.size))
    with _all_on_one(device, already=ranks.size == 1):
        fit(
            module, data, callbacks=[seen], plan=ComputePlan(names, precision), checkpoints=DurableCheckpoints(),
            epochs=EPOCHS, start=None, folder=Path(folder),
        )  # fmt: skip
    if not ranks.rank:
        state = {name: tensor.cpu() for name, tensor in module.state_dict().items()}
        kept = {"gradient": seen.gradients[0].cpu(), "figures": seen.figures, "state": state}
        torch.save(kept, Path(folder, f"of_{ranks.size}.pth"))


def _talk_through_gloo() -> None:
    """Another process group in place of the one that has NCCL for tensors on GPUs."""
    store = dist.distributed_c10d._get_default_store()
    rank, size = dist.get_rank(), dist.get_world_size()
    dist.destroy_process_group()
    dist.init_process_group("gloo", store=dist.PrefixStore("on-one-gpu", store), rank=rank, world_size=size)


@contextmanager
def _all_on_one(device: str, *, already: bool) -> Iterator[None]:
    """Lightning refuses to use a GPU twice where it chooses the devices itself; not where the strategy brings them."""
    if already:
        yield
        return
    lightnings = pl.Trainer

    class OnOne(lightnings):  # type: ignore[misc,valid-type]
        def __init__(self, *, devices: Any, strategy: Any, **rest: Any) -> None:
            strategy.parallel_devices = [torch.device(device)] * dist.get_world_size()
            super().__init__(devices=1, strategy=strategy, **rest)

    pl.Trainer = OnOne  # type: ignore[misc]
    try:
        yield
    finally:
        pl.Trainer = lightnings  # type: ignore[misc]


def of_one_and_two(place: Place, *, precision: str, backbone: str) -> dict[str, Any]:
    """The same steps by one rank and by two, each with half of the batch."""
    folder = place.own(f"ranks-{precision}")
    case = {"folder": str(folder), "device": place.device, "precision": precision, "sampler": "softmax_triplet"}
    case |= {"optimizer": "SGD", "backbone": backbone}
    train(**case, ranks=SINGLE_PROCESS)
    run_on_ranks("tests.bench.check_ranks:train", case, local=2)
    one, two = (torch.load(folder / f"of_{size}.pth", weights_only=True) for size in (1, 2))
    return {
        "losses": [figures["loss"] for figures in one["figures"]],
        "losses_of_two": [figures["loss"] for figures in two["figures"]],
        "gradient_apart": relative(two["gradient"], one["gradient"]),
        "gradient_off": _off_full_precision(place, one["gradient"]),
        "weights_apart": max(
            relative(two["state"][name], tensor) for name, tensor in one["state"].items() if tensor.is_floating_point()
        ),
    }


def _off_full_precision(place: Place, gradient: torch.Tensor) -> float:
    """How far one rank's first gradient is from the one in float32, which is computed before the other precisions."""
    exact = torch.load(place.own("ranks-32-true") / "of_1.pth", weights_only=True)["gradient"]
    return relative(gradient, exact)


def relative(found: torch.Tensor, wanted: torch.Tensor) -> float:
    """|found - wanted| / |wanted|, both as vectors."""
    return float((found.double() - wanted.double()).norm() / wanted.double().norm().clamp(min=1e-12))


def by_nccl(place: Place) -> dict[str, str]:
    """What NCCL says to two ranks on one GPU: "works", or its refusal."""
    if place.device == "cpu":
        return {"said": "not asked: no GPU"}
    try:
        run_on_ranks("tests.bench.check_ranks:reduce", {}, local=2)
    except Exception as error:
        said = re.search(r"Duplicate GPU[^\n]*|ncclInvalidUsage[^\n]*", str(error))
        return {"said": said[0] if said else f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"said": "works"}


def reduce(*, ranks: Ranks, **_: Any) -> None:
    """A sum over the ranks on the first GPU; AssertionError where it is none."""
    group = dist.new_group(backend="nccl", timeout=timedelta(seconds=30))
    values = torch.ones(4, device="cuda:0")
    dist.all_reduce(values, group=group)
    assert values.tolist() == [float(ranks.size)] * 4
