"""The LightningModule: network, losses, optimizer and learning rate put together; the maths is in files of its own.

Mining over ranks: the triplet loss must find each anchor's hardest images in the whole batch, of which a rank only has
its part. So every rank gathers all features and computes the same loss of the whole batch; its gradient flows into the
rank's own features only. The sum over the ranks is the true gradient, but DistributedDataParallel takes the mean, so
this loss is multiplied by the number of ranks before the backward pass. The other losses are means over images, and the
mean over ranks is right for them.

Shapes: B images of this rank's part of a batch, C channels, H height, W width, D width of the features, P persons.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.data.module import Batch, TrainingData
from reid.distributed.gathering import mean_over_ranks, ranks, whole_batch
from reid.model.checkpoint import AVERAGE
from reid.model.embedder import Embedder
from reid.training.averaging import AVERAGED_STEPS, AveragedNetwork
from reid.training.chosen_losses import OF_THE_WHOLE_BATCH
from reid.training.former_groups import in_todays_groups
from reid.training.freezing import Freezing
from reid.training.loss_scaling import scaling_of
from reid.training.plateau import Plateau
from reid.training.schedule import GroupFactor

STEPS_OF_FULL_MEMORY = 3
"""After so many steps the optimizer's state exists and a compiled network has its memory: no later step needs more."""
STREAM = 3
"""Number of the random stream of the network's own draws (dropout); the sampler and the augmentation have others."""


class Training(pl.LightningModule):
    """One training step: forward, the losses, backward, clipping, the optimizer; and the centres' own descent.

    Lightning's automatic optimization is off, because the centres have a learning rate of their own (Luo et al. 2019,
    arXiv:1903.07071): their gradient is divided by the loss weight, which is meant for the network only.
    """

    automatic_optimization = False

    def __init__(
        self,
        model: Embedder,
        losses: nn.ModuleDict,
        *,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        epoch_factor: GroupFactor,
        plateau: Plateau | None,
        plateau_watches: str,
        clip_grad_norm: float,
        loss_weights: Mapping[str, float],
        unit_triplet: bool,
        center_lr: float,
        ema_decay: float,
        freeze_epochs: int,
        seed: int,
    ) -> None:
        """epoch_factor: see GroupFactor; plateau: another factor on all learning rates, or None.

        loss_weights: of each loss in their sum. unit_triplet: whether the triplet loss sees features of length 1.
        ema_decay: of the moving average of the weights; 0: none is kept. freeze_epochs: in how many the
        backbone is frozen.
        """
        super().__init__()
        self.model, self.losses = model, losses
        self.center_lr, self.clip_grad_norm = center_lr, clip_grad_norm
        self._loss_weights, self._unit_triplet = dict(loss_weights), unit_triplet
        self.plateau, self.plateau_watches = plateau, plateau_watches
        self._build_optimizer, self._epoch_factor, self._seed = optimizer, epoch_factor, seed
        self._optimizer_state: dict[str, Any] | None = None
        self._ema_decay = ema_decay
        self._average: AveragedNetwork | None = None
        self._average_state: dict[str, Any] | None = None
        self._begin, self._steps_taken = (0, 0), 0
        self._freezing = Freezing(model.base, epochs=freeze_epochs)

    def setup(self, stage: str) -> None:
        """Freezes the backbone if the first epoch to do is a frozen one, before the ranks agree on what to exchange."""
        self._freezing.let_learn(not self._freezing.covers(self._begin[0]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """The optimizer of all that learns sooner or later; each group keeps its base learning rate as `initial_lr`."""
        learns = self._freezing.let_learn(True)
        optimizer = self._build_optimizer(self.model)
        self._freezing.let_learn(learns)
        for group in optimizer.param_groups:
            group["initial_lr"] = group["lr"]
            group.setdefault("share", 1.0)
        return optimizer

    def on_fit_start(self) -> None:
        """Begins the average of the weights, on the network's device: with its weights, or with a checkpoint's average.

        Lightning calls it before any callback needs the average.
        """
        if self._ema_decay:
            self._average = AveragedNetwork(self.model, decay=self._ema_decay)
            if self._average_state:
                self._average.load_state_dict(self._average_state)
                self._average_state = None

    @property
    def network(self) -> Embedder:
        """The network that is validated and kept: the averaged one, if there is one."""
        return self._average.network if self._average else self.model

    def learning_rate_at(self, epoch: int, share: float = 1.0) -> float:
        """The factor on the base learning rate of a group of this share, in this epoch (from 0)."""
        return self._epoch_factor(epoch, share) * (self.plateau.factor if self.plateau else 1.0)

    def on_train_start(self) -> None:
        """Loads the optimizer's state of a resumed training, but with the learning rates and decays of today's spec."""
        if self._optimizer_state is None:
            return
        optimizer = self._optimizer()
        state = in_todays_groups(self._optimizer_state, optimizer.param_groups, self.model)
        # set before loading, because torch places the counts of steps by a group's `fused`
        groups = [
            old | {name: value for name, value in wanted.items() if name != "params"}
            for old, wanted in zip(state["param_groups"], optimizer.param_groups)
        ]
        optimizer.load_state_dict({**state, "param_groups": groups})
        self._optimizer_state = None

    def on_train_epoch_start(self) -> None:
        """Sets the epoch's learning rate, and whether the backbone learns."""
        if self._freezing.begin_epoch(self.current_epoch, self.trainer):
            self._steps_taken = 0  # these steps need more memory
        for group in self._optimizer().param_groups:
            group["lr"] = group["initial_lr"] * self.learning_rate_at(self.current_epoch, group["share"])

    @property
    def learning_rate(self) -> float:
        """The learning rate of the first group, the weights."""
        return float(self._optimizer().param_groups[0]["lr"])

    def on_train_batch_start(self, batch: Batch, _batch_idx: int) -> int | None:
        """Returns -1, which makes Lightning end the epoch, for a step that the resumed checkpoint holds already."""
        return -1 if batch.step[:2] < self._begin else None

    def training_step(self, batch: Batch, _batch_idx: int) -> dict[str, Tensor]:
        """Takes one step; returns its figures over all ranks as scalars: loss, each loss, accuracy, gradient_norm.

        In fp16 also skipped_steps: 1 if the gradient overflowed and the step was not taken, else 0.
        What the network draws itself (dropout) depends on the seed, the step and the rank only, so that a resumed
        training needs no state of a generator.
        """
        figures = self._with_spare_memory(batch)
        scaling = scaling_of(self.trainer)
        scale = scaling.unscale(self._optimizer(), self.device) if scaling else None
        norm = self._clip()
        self.optimizers().step()  # type: ignore[union-attr]
        self._move_centers(scale, taken=norm.isfinite())
        if self._average:
            self._average.update(taken=norm.isfinite() if scaling else None)
        figures["gradient_norm"] = norm
        if scaling:
            figures["skipped_steps"] = ~norm.isfinite()
        values = torch.stack([figure.detach().float() for figure in figures.values()])
        return dict(zip(figures, mean_over_ranks(values).unbind()))

    def _with_spare_memory(self, batch: Batch) -> dict[str, Tensor]:
        """_backward; if the memory does not suffice in the first steps, once more without the images on the GPU.

        The first steps use as much memory as all others. Nothing but the running statistics was changed by then.
        """
        data = getattr(self.trainer, "datamodule", None)
        self._steps_taken += 1
        if ranks() > 1 or self._steps_taken > STEPS_OF_FULL_MEMORY or not isinstance(data, TrainingData):
            return self._backward(batch)
        before = [buffer.clone() for buffer in self.model.buffers()]
        try:
            return self._backward(batch)
        except torch.OutOfMemoryError:
            if not data.give_back_images():
                raise
        # outside of `except`, where the error would still hold the tensors of the failed step
        for buffer, value in zip(self.model.buffers(), before):
            buffer.copy_(value)
        return self._backward(batch)

    def _backward(self, batch: Batch) -> dict[str, Tensor]:
        """Computes the gradients of the step; returns the losses and the accuracy of this rank."""
        torch.manual_seed(self._step_seed(batch))
        self.zero_grad(set_to_none=True)  # before the forward pass: a CUDA graph writes over the last gradients there
        features, logits = self.model(batch.images)
        parts = self.compute_losses(features, logits, batch.label)
        weighted = {name: self._loss_weights[name] * part for name, part in parts.items()}
        of_all = [part * (ranks() if name in OF_THE_WHOLE_BATCH else 1) for name, part in weighted.items()]
        self.manual_backward(torch.stack(of_all).sum())
        accuracy = (logits.argmax(dim=1) == batch.label).float().mean()
        loss = torch.stack(list(weighted.values())).sum()
        figures = {"loss": loss, **parts, "accuracy": accuracy}
        return {name: figure.detach() for name, figure in figures.items()}

    def compute_losses(self, features: Tensor, logits: Tensor, label: Tensor) -> dict[str, Tensor]:
        """features (B, D), logits (B, P), label (B,) -> each loss, unweighted."""
        inputs = {"cross_entropy": (logits.float(), label), "center": (features, label)}
        if "triplet" in self.losses:
            metric = F.normalize(features.float()) if self._unit_triplet else features
            inputs["triplet"] = (whole_batch(metric), whole_batch(label))
        return {name: loss(*inputs[name]) for name, loss in self.losses.items()}

    def after_epoch(self, *, train_loss: float, val_loss: float | None) -> None:
        """Shows the epoch's losses to the plateau; val_loss is None if the epoch was not validated."""
        watched = train_loss if self.plateau_watches == "train_loss" else val_loss
        if self.plateau and watched is not None:
            self.plateau.look(watched)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Adds the plateau and the averaged weights to Lightning's own state."""
        if self.plateau:
            checkpoint["plateau"] = self.plateau.state_dict()
        if self._average:
            checkpoint |= self._average.state_dict()

    def resume_from(self, checkpoint: Mapping[str, Any], *, epoch: int, step: int) -> None:
        """Takes weights, average, centres, plateau and optimizer's state from a checkpoint, before the training starts.

        An average that the checkpoint does not have begins with its weights. The next step to do is `step` of `epoch`,
        both from 0.
        """
        self._begin = (epoch, step)
        self.load_state_dict(checkpoint["state_dict"])
        self._optimizer_state = checkpoint["optimizer_states"][0]
        if AVERAGE in checkpoint:
            self._average_state = {name: checkpoint[name] for name in (AVERAGE, AVERAGED_STEPS)}
        if self.plateau and "plateau" in checkpoint:
            self.plateau.load_state_dict(checkpoint["plateau"])

    def _step_seed(self, batch: Batch) -> int:
        place = [self._seed, batch.step.epoch, STREAM, batch.step.step, self.global_rank]
        return int(np.random.SeedSequence(place).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def _optimizer(self) -> torch.optim.Optimizer:
        return self.optimizers(use_pl_optimizer=False)  # type: ignore[return-value]

    def _clip(self) -> Tensor:
        """Clips the network's gradient; returns its norm before that, as a tensor, so that the host does not wait."""
        if self.clip_grad_norm > 0:
            return nn.utils.clip_grad_norm_(self.model.parameters(), self.clip_grad_norm)
        return nn.utils.get_total_norm([p.grad for p in self.model.parameters() if p.grad is not None])

    @torch.no_grad()
    def _move_centers(self, scale: Tensor | None, *, taken: Tensor) -> None:
        """One step of plain gradient descent on the centres.

        scale: of the gradient in fp16, else None; the centres then stay where they are unless the step was taken.
        """
        if "center" in self.losses:
            centers = self.losses["center"].centers
            gradient: Any = centers.grad
            if scale is not None:
                gradient = torch.where(taken, gradient / scale, 0.0)
            centers.sub_(gradient, alpha=self.center_lr / self._loss_weights["center"])  # type: ignore[operator]
