"""Training in fp16: the loss is scaled, so that small gradients do not become 0 in half precision.

torch's GradScaler chooses the scale: it doubles it after 2,000 good steps, and halves it whenever a gradient overflows.
The step of such a gradient is skipped; the first steps of a training usually are, until the scale fits. Nothing here
waits for the GPU (torch's step of an optimizer without a fused form does, once a step).
"""

from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor


class LossScaling(MixedPrecision):
    """Lightning's fp16 precision, but the training step unscales the gradients itself, before it clips them.

    Lightning would unscale them in the optimizer's step, after clipping, and not at all for a fused optimizer.
    """

    scaler: torch.amp.GradScaler

    def __init__(self, device: str) -> None:
        """device: cuda or cpu."""
        super().__init__("16-mixed", device, torch.amp.GradScaler(device))

    def unscale(self, optimizer: torch.optim.Optimizer, device: torch.device) -> Tensor:
        """Divides the gradients of the optimizer's parameters by the scale; returns the scale, a scalar."""
        scale: Tensor = self.scaler.scale(torch.ones((), device=device))
        self.scaler.unscale_(optimizer)
        return scale

    def optimizer_step(  # type: ignore[override]
        self, optimizer: torch.optim.Optimizer, model: pl.LightningModule, closure: Callable[[], Any], **kwargs: Any
    ) -> Any:
        """The optimizer's step, unless a gradient is not finite; then the next scale."""
        closure()
        self._after_closure(model, optimizer)
        output = self.scaler.step(optimizer, **kwargs)
        self.scaler.update()
        return output


def scaling_of(trainer: pl.Trainer) -> LossScaling | None:
    """The trainer's loss scaling, if it trains in fp16."""
    plugin = trainer.precision_plugin
    return plugin if isinstance(plugin, LossScaling) else None


def resume_scaling(trainer: pl.Trainer, checkpoint: dict[str, Any]) -> None:
    """Sets the scale to that of the checkpoint to resume from, in which Lightning has stored it.

    A checkpoint of a training in another precision has none: then the scale is found anew.
    """
    scaling, state = scaling_of(trainer), checkpoint.get(LossScaling.__qualname__)
    if scaling and state:
        scaling.load_state_dict(state)
