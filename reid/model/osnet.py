"""OSNet: a small network whose blocks see four scales at once, and weigh them by the image.

Zhou et al., ICCV 2019, arXiv:1905.00953; with instance normalisation (AIN): Zhou et al., TPAMI 2021, arXiv:1910.06827.
A block's four streams are one to four light 3 x 3 convolutions deep; one gate, shared by the streams, weighs each
channel. Tensors have the names of torchreid's osnet_ain.py; `sources.py` translates those of its osnet.py.

Shapes: B images, C channels, H rows, W columns of a map, D width of the features.
"""

from collections import OrderedDict

from torch import Tensor, nn
from torch.nn import functional as F

OSNETS = {
    "osnet_x1_0": ("plain", 64),
    "osnet_x0_75": ("plain", 48),
    "osnet_x0_5": ("plain", 32),
    "osnet_x0_25": ("plain", 16),
    "osnet_ibn_x1_0": ("ibn", 64),
    "osnet_ain_x1_0": ("ain", 64),
    "osnet_ain_x0_75": ("ain", 48),
    "osnet_ain_x0_5": ("ain", 32),
    "osnet_ain_x0_25": ("ain", 16),
}
"""The spec's name, which is torchreid's -> (which layers normalise each image alone, channels of the stem)."""
SCALES = 4
NARROWER, GATE_NARROWER = 4, 16
"""A block's streams have a quarter of its channels, and the gate's hidden layer a sixteenth of these."""
WIDER = (4, 6, 8)
"""Channels of the three stages, as multiples of the stem's."""

# where a block normalises each image alone: nowhere, the sum with its shortcut, or its own part of the sum
NOWHERE, SUM, BRANCH = "nowhere", "sum", "branch"
BLOCKS = {
    "plain": ((NOWHERE, NOWHERE), (NOWHERE, NOWHERE), (NOWHERE, NOWHERE)),
    "ibn": ((SUM, SUM), (NOWHERE, NOWHERE), (NOWHERE, NOWHERE)),
    "ain": ((BRANCH, BRANCH), (NOWHERE, BRANCH), (BRANCH, NOWHERE)),
}
"""Kind of network -> for the two blocks of each stage, where they normalise; AIN's were found by a search."""


class ConvNorm(nn.Module):
    """A convolution without bias, its normalisation, and a ReLU if `relu`."""

    def __init__(
        self, into: int, out: int, *, norm: type[nn.Module] = nn.BatchNorm2d, relu: bool = True, size: int = 1
    ) -> None:
        super().__init__()
        stride, padding = (1, 0) if size == 1 else (2, size // 2)
        self.conv = nn.Conv2d(into, out, size, stride=stride, padding=padding, bias=False)
        self.bn = nn.InstanceNorm2d(out, affine=True) if norm is nn.InstanceNorm2d else norm(out)
        self.relu = relu

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, `out`, H, W), or half as high and wide for the stem."""
        normalised: Tensor = self.bn(self.conv(maps))
        return F.relu(normalised) if self.relu else normalised


class LightConv(nn.Module):
    """A 1 x 1 convolution, a 3 x 3 convolution of each channel alone, BatchNorm, ReLU (the paper's figure 3b)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, groups=channels, bias=False)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, C, H, W)."""
        normalised: Tensor = self.bn(self.conv2(self.conv1(maps)))
        return F.relu(normalised)


class Gate(nn.Module):
    """Weighs each channel by a number from 0 to 1 that two layers make of the channels' means (equation 3)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, channels // GATE_NARROWER, 1)
        self.fc2 = nn.Conv2d(channels // GATE_NARROWER, channels, 1)

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, C, H, W) -> (B, C, H, W)."""
        weight: Tensor = self.fc2(F.relu(self.fc1(self.pool(maps)))).sigmoid()
        return maps * weight


class OmniScaleBlock(nn.Module):
    """The residual block: the gated sum of four streams, beside a shortcut (the paper's figure 4b)."""

    def __init__(self, into: int, out: int, *, instance_norm: str) -> None:
        super().__init__()
        inner = out // NARROWER
        self.conv1 = ConvNorm(into, inner)
        self.conv2 = nn.ModuleList(_stream(inner, depth) for depth in range(1, SCALES + 1))
        self.gate = Gate(inner)
        norm = nn.Identity if instance_norm == BRANCH else nn.BatchNorm2d
        self.conv3 = ConvNorm(inner, out, norm=norm, relu=False)
        self.downsample = nn.Identity() if into == out else ConvNorm(into, out, relu=False)
        self.IN = nn.Identity() if instance_norm == NOWHERE else nn.InstanceNorm2d(out, affine=True)
        self.normalises_sum = instance_norm == SUM

    def forward(self, maps: Tensor) -> Tensor:
        """maps (B, `into`, H, W) -> (B, `out`, H, W)."""
        narrow = self.conv1(maps)
        first, *others = (self.gate(stream(narrow)) for stream in self.conv2)
        for other in others:
            first = first + other
        own, shortcut = self.conv3(first), self.downsample(maps)
        return F.relu(self.IN(own + shortcut) if self.normalises_sum else self.IN(own) + shortcut)


def _stream(channels: int, depth: int) -> nn.Sequential:
    layers = nn.Sequential(*(LightConv(channels) for _ in range(depth)))
    return nn.Sequential(OrderedDict(layers=layers))  # torchreid's name of it


class OSNet(nn.Module):
    """The convolutional part of an OSNet with random weights, drawn as torchreid draws them."""

    def __init__(self, name: str, *, input_channels: int) -> None:
        super().__init__()
        kind, stem = OSNETS[name]
        widths = [stem, *(stem * wider for wider in WIDER)]
        norm = nn.BatchNorm2d if kind == "plain" else nn.InstanceNorm2d
        self.conv1 = ConvNorm(input_channels, stem, norm=norm, size=7)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.conv2, self.conv3, self.conv4 = (
            nn.Sequential(
                OmniScaleBlock(into, out, instance_norm=first), OmniScaleBlock(out, out, instance_norm=second)
            )
            for into, out, (first, second) in zip(widths, widths[1:], BLOCKS[kind], strict=False)
        )
        self.pool2, self.pool3 = (
            nn.Sequential(ConvNorm(width, width), nn.AvgPool2d(2, stride=2)) for width in widths[1:3]
        )
        self.conv5 = ConvNorm(widths[3], widths[3])
        self.num_features = widths[3]
        self.pretrained_cfg = {"first_conv": "conv1.conv"}
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward_features(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> map (B, D, H / 16, W / 16)."""
        maps = self.maxpool(self.conv1(images))
        maps = self.pool3(self.conv3(self.pool2(self.conv2(maps))))
        mapped: Tensor = self.conv5(self.conv4(maps))
        return mapped


class FullyConnected(nn.Sequential):
    """The layer behind an OSNet's pooling: linear, BatchNorm, ReLU; features (B, `into`) -> (B, `out_features`)."""

    def __init__(self, into: int, out_features: int) -> None:
        linear = nn.Linear(into, out_features)
        nn.init.normal_(linear.weight, std=0.01)
        nn.init.zeros_(linear.bias)
        super().__init__(linear, nn.BatchNorm1d(out_features), nn.ReLU())
        self.out_features = out_features
