"""A learning rate that falls when a loss has stalled."""

from collections.abc import Mapping
from typing import Any

import torch
from torch.optim.lr_scheduler import ReduceLROnPlateau


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
        """The factor now: 1 at first, then powers of gamma."""
        return float(self._optimizer.param_groups[0]["lr"])

    def look(self, loss: float) -> None:
        """Takes the next loss into account."""
        self._scheduler.step(loss)

    def state_dict(self) -> dict[str, Any]:
        """The state as plain values."""
        kept = {name: value for name, value in self._scheduler.state_dict().items() if name != "factor"}
        return {"reached": self.factor, **kept}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Takes what state_dict returned, except gamma."""
        values = dict(state)
        self._optimizer.param_groups[0]["lr"] = values.pop("reached")
        self._scheduler.load_state_dict(values)
