"""Epochs in which the backbone stays as it is and only the head learns, at the beginning of a training.

A new head sends large, random gradients into a pretrained backbone; so the head learns alone first, as in fast-reid
(FREEZE_LAYERS, FREEZE_ITERS). While it is frozen, the backbone is in evaluation mode: its running statistics stay, and
nothing is dropped out. Its parameters have no gradient, so the optimizer passes them over: no decay, no momentum, no
state. No graph is recorded for them, so a frozen step needs only the forward pass of the backbone.
"""

import gc

import pytorch_lightning as pl
from pytorch_lightning.strategies import DDPStrategy
from torch import nn


class Freezing:
    """Freezes a backbone for the first epochs, then lets it learn."""

    def __init__(self, backbone: nn.Module, *, epochs: int) -> None:
        """epochs: how many are frozen, from the training's first."""
        self._backbone, self._epochs = backbone, epochs
        self._learning = [parameter for parameter in backbone.parameters() if parameter.requires_grad]

    def covers(self, epoch: int) -> bool:
        """Whether the backbone is frozen in an epoch (from 0)."""
        return epoch < self._epochs

    def let_learn(self, learn: bool) -> bool:
        """Whether the backbone's parameters get gradients from now on; returns whether they did before."""
        before = any(parameter.requires_grad for parameter in self._learning)
        for parameter in self._learning:
            parameter.requires_grad_(learn)
        return before

    def begin_epoch(self, epoch: int, trainer: pl.Trainer) -> bool:
        """Sets the backbone's mode for an epoch (from 0); returns whether it begins to learn in this epoch."""
        if self.covers(epoch):
            self._backbone.eval()
            return False
        if self.let_learn(True) or not self._learning:
            return False
        self._backbone.train()
        _exchange_all_gradients(trainer)
        return True


def _exchange_all_gradients(trainer: pl.Trainer) -> None:
    """Makes several ranks exchange the gradients of all parameters that learn now.

    DistributedDataParallel decides that when it is built. The old one, whose hooks hang on the head's parameters,
    is gone before the new one is built.
    """
    strategy = trainer.strategy
    if isinstance(strategy, DDPStrategy):
        strategy.model = None
        gc.collect()  # it refers to itself
        strategy.model = trainer.lightning_module
        strategy.configure_ddp()
