"""The LightningModule: network, losses, optimizers and learning rate put together; the maths is in their own files.

Shapes: B images of this rank's part of a batch, C channels, H height, W width, D width of the features, P persons.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from reid.data.module import Batch
from reid.distributed.gathering import mean_over_ranks, ranks, whole_batch
from reid.model.embedder import Embedder
from reid.training.losses import BatchHardTriplet, CenterLoss, LabelSmoothedCrossEntropy

LABEL_SMOOTHING = 0.1
OF_THE_WHOLE_BATCH = {"triplet"}
"""Losses whose pairs are mined over all ranks; the others are means over images, and so is their mean over ranks."""
STREAM = 3  # keeps the network's own draws (dropout) apart from the sampler's and the augmentation's


def build_losses(
    *,
    sampler: str,
    metric_loss_type: str,
    with_center_loss: bool,
    label_smooth: bool,
    triplet_loss_margin: float,
    num_classes: int,
    embedding_size: int,
) -> nn.ModuleDict:
    """The losses that a spec names, under cross_entropy, triplet and center; their sum is the training loss.

    softmax: cross-entropy alone; triplet: the metric losses alone; softmax_triplet: both. The metric losses are those
    of metric_loss_type, plus the centre loss wherever with_center_loss asks for it.
    """
    losses: dict[str, nn.Module] = {}
    if sampler != "triplet":
        losses["cross_entropy"] = LabelSmoothedCrossEntropy(epsilon=LABEL_SMOOTHING if label_smooth else 0.0)
    if sampler != "softmax":
        if "triplet" in metric_loss_type:
            losses["triplet"] = BatchHardTriplet(margin=triplet_loss_margin)
        if with_center_loss:
            losses["center"] = CenterLoss(num_classes=num_classes, embedding_size=embedding_size)
    return nn.ModuleDict(losses)


class Plateau:
    """A factor on the learning rate that is multiplied by gamma whenever a loss has not fallen for ten looks.

    torch's ReduceLROnPlateau (its defaults: patience 10, relative threshold 1e-4), moved off the optimizer, so that it
    can stand beside a warm-up.
    """

    def __init__(self, *, gamma: float) -> None:
        self._optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
        self._scheduler = ReduceLROnPlateau(self._optimizer, factor=gamma)

    @property
    def factor(self) -> float:
        """1 at first, then powers of gamma."""
        return float(self._optimizer.param_groups[0]["lr"])

    def look(self, loss: float) -> None:
        """Takes the next loss into account."""
        self._scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        kept = {name: value for name, value in self._scheduler.state_dict().items() if name != "factor"}  # gamma
        return {"reached": self.factor, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """What state_dict gave; gamma stays this one's own."""
        values = dict(state)
        self._optimizer.param_groups[0]["lr"] = values.pop("reached")
        self._scheduler.load_state_dict(values)


class Training(pl.LightningModule):
    """One step: forward, the losses, backward, clipping, the optimizer; and the centres' own descent.

    Optimized by hand, because the centres move at a rate of their own (Luo et al. 2019, arXiv:1903.07071): their
    gradient is divided by the loss weight, which is there for the network only.
    """

    automatic_optimization = False

    def __init__(
        self,
        model: Embedder,
        losses: nn.ModuleDict,
        *,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        epoch_factor: Callable[[int], float],
        plateau: Plateau | None,
        plateau_watches: str,
        clip_grad_norm: float,
        center_loss_weight: float,
        center_lr: float,
        seed: int,
    ) -> None:
        """epoch_factor: epoch (from 0) -> factor on the base learning rate; plateau: one more factor, or None."""
        super().__init__()
        self.model, self.losses = model, losses
        self.center_loss_weight, self.center_lr, self.clip_grad_norm = center_loss_weight, center_lr, clip_grad_norm
        self.plateau, self.plateau_watches = plateau, plateau_watches
        self._build_optimizer, self._epoch_factor, self._seed = optimizer, epoch_factor, seed
        self._optimizer_state: dict[str, Any] | None = None
        self._begin = (0, 0)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The network's optimizer; each group keeps its base learning rate as `initial_lr`."""
        optimizer = self._build_optimizer(self.model)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
        return optimizer

    def learning_rate_at(self, epoch: int) -> float:
        """Factor on every group's base learning rate in this epoch (from 0)."""
        return self._epoch_factor(epoch) * (self.plateau.factor if self.plateau else 1.0)

    def on_train_start(self) -> None:
        """A training that goes on brings the optimizer's state; its rates and decays are those of the spec now."""
        if self._optimizer_state is None:
            return
        optimizer, state = self._optimizer(), self._optimizer_state
        # before loading: by a group's `fused` torch decides on which device its counts of steps lie
        groups = [
            old | {name: value for name, value in wanted.items() if name != "params"}
            for old, wanted in zip(state["param_groups"], optimizer.param_groups)
        ]
        optimizer.load_state_dict({**state, "param_groups": groups})
        self._optimizer_state = None

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's learning rate."""
        factor = self.learning_rate_at(self.current_epoch)
        for group in self._optimizer().param_groups:
            group["lr"] = group["initial_lr"] * factor

    @property
    def learning_rate(self) -> float:
        """Of the first group: the weights."""
        return float(self._optimizer().param_groups[0]["lr"])

    def on_train_batch_start(self, batch: Batch, _batch_idx: int) -> int | None:
        """-1, which ends the epoch, for a step that was done before the checkpoint that this training goes on from."""
        return -1 if batch.step[:2] < self._begin else None

    def training_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        """One step of the optimizer; its figures over all ranks as detached scalars: loss, each loss, accuracy,
        gradient_norm.

        What the network draws itself (dropout) depends on the seed, the step and the rank only, so that a training that
        goes on needs no generator's state.
        """
        torch.manual_seed(self._step_seed(batch))
        features, logits = self.model(batch.images)
        parts = self.compute_losses(features, logits, batch.label)
        weighted = {name: self._weight(name) * part for name, part in parts.items()}
        of_all = [part * (ranks() if name in OF_THE_WHOLE_BATCH else 1) for name, part in weighted.items()]
        optimizer = self.optimizers()
        self.zero_grad(set_to_none=True)
        self.manual_backward(torch.stack(of_all).sum())
        norm = self._clip()
        optimizer.step()  # type: ignore[union-attr]
        self._move_centers()
        accuracy = (logits.argmax(dim=1) == batch.label).float().mean()
        loss = torch.stack(list(weighted.values())).sum()
        figures = {"loss": loss, **parts, "accuracy": accuracy, "gradient_norm": norm}
        values = torch.stack([figure.detach().float() for figure in figures.values()])
        return dict(zip(figures, mean_over_ranks(values).unbind()))

    def compute_losses(self, features: Tensor, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """features (B, D), logits (B, P), label (B,) -> each loss, unweighted."""
        inputs = {"cross_entropy": (logits.float(), label), "center": (features, label)}
        if "triplet" in self.losses:
            inputs["triplet"] = (whole_batch(features), whole_batch(label))
        return {name: loss(*inputs[name]) for name, loss in self.losses.items()}

    def after_epoch(self, *, train_loss: float, val_loss: float | None) -> None:
        """Shows the epoch's losses to the plateau; val_loss is None where the epoch was not validated."""
        watched = train_loss if self.plateau_watches == "train_loss" else val_loss
        if self.plateau and watched is not None:
            self.plateau.look(watched)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the plateau to Lightning's own state."""
        if self.plateau:
            checkpoint["plateau"] = self.plateau.state_dict()

    def go_on_from(self, checkpoint: Mapping[str, Any], *, epoch: int, step: int) -> None:
        """Takes weights, centres, plateau and the optimizer's state from a checkpoint, before the training starts; the
        next step to do is `step` of `epoch`, both from 0.
        """
        self._begin = (epoch, step)
        self.load_state_dict(checkpoint["state_dict"])
        self._optimizer_state = checkpoint["optimizer_states"][0]
        if self.plateau and "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])

    def _step_seed(self, batch: Batch) -> int:
        place = [self._seed, batch.step.epoch, STREAM, batch.step.step, self.global_rank]
        return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _weight(self, name: str) -> float:
        return self.center_loss_weight if name == "center" else 1.0

    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]

    def _clip(self) -> Tensor:
        """The norm of the network's gradient before clipping, as a tensor: nothing waits for it."""
        if self.clip_grad_norm > 0:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    @torch.no_grad()
    def _move_centers(self) -> None:
        """One step of plain gradient descent on the centres."""
        if "center" in self.losses:
            centers = self.losses["center"].centers
            centers.sub_(centers.grad, alpha=self.center_lr / self.center_loss_weight)  # type: ignore[union-attr,operator,arg-type]
