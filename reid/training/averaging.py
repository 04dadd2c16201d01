"""The exponential moving average (EMA) of a network's weights, which often ranks better than those of the last step.

After each step that the optimizer took, every parameter and every statistic of batch normalisation moves towards the
network's own:  average <- d average + (1 - d) own.  The statistics are averaged like the weights (as timm's ModelEmaV3
does), because those of the last steps belong to other weights than the averaged ones; whole numbers (a BatchNorm's
count of batches) are copied.

At the beginning the average would mostly be the untrained network. So the decay d rises with the number n of steps
taken, the first being 1:  d = min(decay, (1 + n) / (10 + n)),  as in TensorFlow's ExponentialMovingAverage.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from reid.model.checkpoint import AVERAGE, PREFIX
from reid.model.embedder import Embedder

AVERAGED_STEPS = "ema_steps"
"""The checkpoint's entry with the number of steps that are in the average."""


class AveragedNetwork:
    """A copy of a network in evaluation mode, whose weights are the moving average of the network's.

    Every rank has one. The ranks take the same steps, so their averages are equal without an exchange.
    """

    def __init__(self, network: Embedder, *, decay: float) -> None:
        """Begins with the weights that the network has now, on its device."""
        self.network = copy.deepcopy(network).eval().requires_grad_(False)
        self._decay = decay
        self._steps = torch.zeros((), dtype=torch.float64)
        pairs = list(zip(self.network.state_dict().values(), network.state_dict().values(), strict=True))
        self._averaged, self._own = _columns([pair for pair in pairs if pair[0].is_floating_point()])
        self._copied, self._counts = _columns([pair for pair in pairs if not pair[0].is_floating_point()])

    @torch.no_grad()
    def update(self, *, taken: Tensor | None) -> None:
        """Takes the network's weights after a step into account.

        taken: in fp16, whether the step was taken, a scalar on the device: the average of a skipped one stays. It is
        not read by the host, which would have to wait for the step. None: it was taken.
        """
        if taken is None:
            self._steps += 1
            torch._foreach_lerp_(self._averaged, self._own, 1.0 - float(self._decay_now()))
        else:
            self._steps = self._steps.to(taken.device) + taken
            share = torch.where(taken, 1.0 - self._decay_now(), 0.0).float()
            change = torch._foreach_sub(self._own, self._averaged)
            torch._foreach_mul_(change, share)
            torch._foreach_add_(self._averaged, change)
        if self._copied:
            torch._foreach_copy_(self._copied, self._counts)

    def _decay_now(self) -> Tensor:
        return ((1 + self._steps) / (10 + self._steps)).clamp(max=self._decay)

    def state_dict(self) -> dict[str, Any]:
        """The entries of a checkpoint: the averaged tensors under the names of `state_dict`, and the steps in them."""
        tensors = {PREFIX + name: tensor for name, tensor in self.network.state_dict().items()}
        return {AVERAGE: tensors, AVERAGED_STEPS: self._steps}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what state_dict returned."""
        self.network.load_state_dict({name.removeprefix(PREFIX): tensor for name, tensor in state[AVERAGE].items()})
        self._steps = state[AVERAGED_STEPS].to("cpu", torch.float64)


def _columns(pairs: list[tuple[Tensor, Tensor]]) -> tuple[list[Tensor], list[Tensor]]:
    return [one for one, _ in pairs], [other for _, other in pairs]
