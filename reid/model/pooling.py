"""Pools a map of features into one vector per image: by its mean, or by its generalized mean with a learned power.

Shapes: B images, D channels, h and w rows and columns of the map.
"""

import torch
from torch import Tensor, nn

from reid.errors import SpecError

FIRST_POWER = 3.0
SMALLEST_VALUE = 1e-6
"""Values of the map are raised to it, because a negative number has no real power."""


class MeanPooling(nn.Module):
    """The mean of each channel."""

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, D, h, w) -> (B, D)."""
        return maps.mean(dim=(2, 3))


class GeneralizedMeanPooling(nn.Module):
    """The generalized mean of each channel, (mean x^p)^(1 / p), whose power p is learned and starts at 3.

    Radenovic et al., TPAMI 2019, arXiv:1711.02512, eq. 3, with one power for all channels, as in fast-reid. Power 1
    gives the mean of the positive values, and a power without limit the maximum.
    """

    def __init__(self) -> None:
        super().__init__()
        self.power = nn.Parameter(torch.full((1,), FIRST_POWER))

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, D, h, w) -> (B, D), in float32: a power of 3 leaves the range of float16."""
        powers = maps.float().clamp(min=SMALLEST_VALUE).pow(self.power)
        return powers.mean(dim=(2, 3)).pow(1 / self.power)


POOLINGS: dict[str, type[nn.Module]] = {
    "class": nn.Identity,  # the class token is one vector per image already
    "mean": MeanPooling,
    "gem": GeneralizedMeanPooling,
}
"""model.pooling -> what it does with the backbone's output."""


def resolve_pooling(pooling: str, *, has_class_token: bool, backbone: str) -> str:
    """model.pooling as class, mean or gem; auto is class for a network with a class token, else mean.

    Raises SpecError for another word, or for class and a backbone without a class token.
    """
    if pooling == "auto":
        return "class" if has_class_token else "mean"
    if pooling not in POOLINGS:
        raise SpecError(f"model.pooling: found {pooling!r}\n  want: auto, {', '.join(POOLINGS)}")
    if pooling == "class" and not has_class_token:
        raise SpecError(f"model.pooling: class, but {backbone} has no class token\n  want: auto, mean or gem")
    return pooling
