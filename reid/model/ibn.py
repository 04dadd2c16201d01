"""ResNet IBN-a: half of the channels of three stages are normalised in each image alone, the others over the batch.

Pan et al., ECCV 2018, arXiv:1807.09441. Instance normalisation takes away an image's own contrast and colour, which
changes from camera to camera; the other half keeps what tells persons apart. Parameters have the names of IBN-Net,
fast-reid and torchreid.

Shapes: B images, C channels, H rows, W columns of a map.
"""

import torch
from timm.models.resnet import ResNet
from torch import Tensor, nn

IBN_RESNETS = {
    "resnet_18_ibn_a": "resnet18",
    "resnet_34_ibn_a": "resnet34",
    "resnet_50_ibn_a": "resnet50",
    "resnet_101_ibn_a": "resnet101",
}
"""The spec's name -> timm's ResNet that becomes it."""
STAGES = ("layer1", "layer2", "layer3")
"""The stages with instance normalisation; the last one keeps its batch normalisation (the paper's section 3.2)."""


class IBN(nn.Module):
    """Instance normalisation of the first half of the channels, batch normalisation of the others."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        alone = channels // 2
        self.IN = nn.InstanceNorm2d(alone, affine=True)
        self.BN = nn.BatchNorm2d(channels - alone)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, C, H, W)."""
        alone = self.IN.num_features
        return torch.cat([self.IN(maps[:, :alone]), self.BN(maps[:, alone:])], dim=1)


def follow_ibn_a(base: ResNet) -> None:
    """Turns timm's ResNet into its IBN-a form in place: the first normalisation of each block of STAGES is an IBN."""
    for stage in STAGES:
        for block in getattr(base, stage):
            block.bn1 = IBN(block.bn1.num_features)
