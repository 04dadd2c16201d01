"""What the ranks of the tests do; a rank's process imports it by name."""

import logging
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Callback
from torch import nn

from reid.contract import Contract
from reid.data.module import TrainingData
from reid.distributed.devices import ComputePlan, share_the_cpu
from reid.distributed.group import StoppedTogether, Tell
from reid.distributed.ranks import Ranks
from reid.errors import ArtifactError
from reid.model.embedder import build_embedder
from reid.training.chosen_losses import build_losses
from reid.training.lightning import Training
from reid.training.resume import DurableCheckpoints
from reid.training.schedule import build_optimizer, parameter_groups
from reid.training.trainer import fit, seed_everything
from tests.networks import network_settings

ROWS = 7


def talk(*, folder: str, ranks: Ranks, **_: Any) -> None:
    """Every collective once; each rank writes what it heard."""
    ranks.meet()
    vectors = np.full((ROWS, 2), -1.0, np.float32)
    rows = [np.flatnonzero(np.arange(ROWS) // 3 % ranks.size == rank) for rank in range(ranks.size)]
    vectors[rows[ranks.rank]] = ranks.rank
    ranks.collect(vectors, rows)
    heard = [ranks.share({"of": ranks.rank}), ranks.any(ranks.rank == 1), ranks.any(False), vectors.tolist()]
    Path(folder, f"{ranks.rank}").write_text(repr(heard))


def refuse(*, ranks: Ranks, **_: Any) -> None:
    """Raises on every rank but the first, which waits for them."""
    if ranks.rank:
        raise ArtifactError(f"rank {ranks.rank}: this is wrong\n  want: that")
    ranks.share(1)


def stumble(*, ranks: Ranks, **_: Any) -> None:
    """Fails on every rank but the first, which waits for them."""
    if ranks.rank:
        raise ZeroDivisionError("rank 1 divided")
    ranks.share(1)


def refuse_alone(*, ranks: Ranks, **_: Any) -> None:
    """Raises on the first rank only."""
    if not ranks.rank:
        raise ArtifactError("only here")
    ranks.share(1)


def report(*, ranks: Ranks, tell: Tell, number: int) -> dict[str, Any]:
    """Tells the task things, logs, and returns something."""
    tell("noted", rank=ranks.rank, number=number)
    logging.getLogger("reid.tests").info("a line of rank %d", ranks.rank)
    return {"rank": ranks.rank, "sum": 0.5 + number, "parent": os.getppid()}


def die(*, ranks: Ranks, **_: Any) -> None:
    """Is killed on every rank but the first, which waits for them."""
    if ranks.rank:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.share(1)


def linger(*, folder: str, ranks: Ranks, **_: Any) -> None:
    """Writes its process number and never ends by itself; stops when it is told to, as a training does."""
    Path(folder, f"{ranks.rank}").write_text(str(os.getpid()))
    ranks.share(1)
    try:
        time.sleep(600)
    except KeyboardInterrupt:
        Path(folder, f"{ranks.rank}").write_text("stopped")
        raise StoppedTogether from None


def stay(*, folder: str, ranks: Ranks, **_: Any) -> None:
    """Writes its process number and takes no notice of signals, like a step that takes long."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    ranks.share(1)
    Path(folder, f"{ranks.rank}").write_text(str(os.getpid()))
    time.sleep(600)


class FrozenStatistics(Callback):
    """Keeps the gradients of every step; BatchNorm is in evaluation mode if frozen."""

    def __init__(self, *, frozen: bool = True) -> None:
        self.frozen = frozen
        self.gradients: list[torch.Tensor] = []
        self.figures: list[dict[str, float]] = []

    def on_train_batch_start(self, _trainer: pl.Trainer, module: pl.LightningModule, _batch: Any, _idx: int) -> None:
        """Lightning calls it."""
        for layer in module.modules():
            if self.frozen and isinstance(layer, nn.BatchNorm1d | nn.BatchNorm2d):
                layer.eval()

    def on_train_batch_end(
        self, _trainer: pl.Trainer, module: pl.LightningModule, outputs: Any, _batch: Any, _idx: int
    ) -> None:
        """Lightning calls it."""
        gradients = [p.grad.flatten() for p in module.parameters() if p.grad is not None]
        self.gradients.append(torch.cat(gradients).clone())
        self.figures.append({name: float(value) for name, value in outputs.items()})


def train_some_steps(
    *, folder: str, sampler: str, ranks: Ranks, frozen: bool = True, freeze_epochs: int = 0, **_: Any
) -> None:
    """Three epochs of 3 steps on 23 noise images of 6 persons with all losses; rank 0 writes gradients and weights."""
    devices = ("cpu",) * ranks.size
    share_the_cpu(devices)
    seed_everything(0)
    network = build_embedder(**network_settings(num_classes=6))
    losses = build_losses(
        sampler=sampler,
        metric_loss_type="triplet_center",
        with_center_loss=True,
        label_smooth=True,
        id_loss_type="softmax",
        cosine_margin=0.5,
        cosine_scale=30.0,
        triplet_loss_margin=0.3,
        num_classes=6,
        embedding_size=network.embedding_size,
    )

    def optimizer(module: nn.Module) -> torch.optim.Optimizer:
        groups = parameter_groups(
            module, base_lr=0.01, weight_decay=5e-4, bias_lr_factor=2.0, weight_decay_bias=5e-4, large_fc_lr=False
        )
        return build_optimizer("SGD", groups, 0.9)

    module = Training(
        network,
        losses,
        optimizer=optimizer,
        epoch_factor=lambda _epoch, _share: 1.0,
        plateau=None,
        plateau_watches="val_loss",
        clip_grad_norm=5.0,
        loss_weights={"cross_entropy": 1.0, "triplet": 1.0, "center": 0.01},
        unit_triplet=False,
        center_lr=0.5,
        ema_decay=0.0,
        freeze_epochs=freeze_epochs,
        seed=0,
    )
    label = np.repeat(np.arange(6), [5, 2, 4, 1, 8, 3])
    data = TrainingData(
        np.random.default_rng(0).integers(0, 256, (len(label), 64, 32, 3), np.uint8),
        label,
        contract=Contract(64, 32, 3, (0.5,) * 3, (0.2,) * 3, network.embedding_size),
        batch_size=8,
        num_instances=None if sampler == "softmax" else 2,
        num_workers=0,
        seed=0,
        padding=4,
        flip_probability=0.5,
        erasing_probability=0.5,
    )
    seen = FrozenStatistics(frozen=frozen)
    fit(
        module,
        data,
        callbacks=[seen],
        plan=ComputePlan(devices, "32-true"),
        checkpoints=DurableCheckpoints(),
        epochs=3,
        start=None,
        folder=Path(folder),
    )
    if not ranks.rank:
        kept = {"gradients": seen.gradients, "figures": seen.figures, "state": module.state_dict()}
        torch.save(kept, Path(folder, f"of_{ranks.size}.pth"))
