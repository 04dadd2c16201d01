"""torchreid's OSNets written out on the names of its checkpoints: images in, embedding out."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def osnet_embedding(images: Tensor, state: State) -> Tensor:
    """images (B, 3, H, W) -> (B, 512) behind `fc`, or the pooled map if there is none."""
    maps = F.max_pool2d(_conv(images, state, "conv1", stride=2, padding=3).relu(), kernel_size=3, stride=2, padding=1)
    for stage in ("conv2", "conv3", "conv4"):
        for block in ("0", "1"):
            maps = osnet_block(maps, state, f"{stage}.{block}")
        pool = {"conv2": ("conv2.2.0", "pool2.0"), "conv3": ("conv3.2.0", "pool3.0")}.get(stage, ())
        for name in pool:
            if f"{name}.conv.weight" in state:
                maps = F.avg_pool2d(_conv(maps, state, name).relu(), 2)
    pooled = _conv(maps, state, "conv5").relu().mean(dim=(2, 3))
    if "fc.0.weight" not in state:
        return pooled
    layer = pooled @ state["fc.0.weight"].T + state["fc.0.bias"]
    scale = state["fc.1.weight"] / (state["fc.1.running_var"] + 1e-5).sqrt()
    return ((layer - state["fc.1.running_mean"]) * scale + state["fc.1.bias"]).relu()


def osnet_block(maps: Tensor, state: State, name: str) -> Tensor:
    """Zhou et al. 2019, equations 1 to 3: F(x) = sum over t of gate(stream of t light convolutions) + shortcut."""
    narrow = _conv(maps, state, f"{name}.conv1").relu()
    total = torch.zeros_like(narrow)
    for scale in range(4):
        stream = narrow
        for layer in _layers(state, name, scale):
            light = F.conv2d(stream, state[f"{layer}.conv1.weight"])
            light = F.conv2d(light, state[f"{layer}.conv2.weight"], padding=1, groups=light.shape[1])
            stream = _normalised(light, state, f"{layer}.bn").relu()
        hidden = _affine(stream.mean(dim=(2, 3)), state, f"{name}.gate.fc1").relu()
        total = total + stream * torch.sigmoid(_affine(hidden, state, f"{name}.gate.fc2"))[:, :, None, None]
    own = _conv(total, state, f"{name}.conv3")
    shortcut = _conv(maps, state, f"{name}.downsample") if f"{name}.downsample.conv.weight" in state else maps
    instance = f"{name}.IN" if f"{name}.IN.weight" in state else ""
    if instance and f"{name}.conv3.bn.weight" not in state:  # AIN
        return (_normalised(own, state, instance) + shortcut).relu()
    return (_normalised(own + shortcut, state, instance) if instance else own + shortcut).relu()


def _layers(state: State, name: str, scale: int) -> Sequence[str]:
    if f"{name}.conv2.0.layers.0.bn.weight" in state:
        return [f"{name}.conv2.{scale}.layers.{layer}" for layer in range(scale + 1)]
    stream = f"{name}.conv2{'abcd'[scale]}"
    return [f"{stream}.{layer}" for layer in range(scale + 1)] if scale else [stream]


def _affine(values: Tensor, state: State, name: str) -> Tensor:
    return values @ state[f"{name}.weight"][:, :, 0, 0].T + state[f"{name}.bias"]


def _conv(maps: Tensor, state: State, name: str, *, stride: int = 1, padding: int = 0) -> Tensor:
    maps = F.conv2d(maps, state[f"{name}.conv.weight"], stride=stride, padding=padding)
    return _normalised(maps, state, f"{name}.bn") if f"{name}.bn.weight" in state else maps


def _normalised(maps: Tensor, state: State, name: str) -> Tensor:
    """By the running statistics; by the image's own if there are none (instance normalisation)."""
    mean, variance = state.get(f"{name}.running_mean"), state.get(f"{name}.running_var")
    if mean is None or variance is None:
        means = maps.mean(dim=(2, 3), keepdim=True)
        variances = ((maps - means) ** 2).mean(dim=(2, 3), keepdim=True)
    else:
        means, variances = mean.view(1, -1, 1, 1), variance.view(1, -1, 1, 1)
    weight, bias = state[f"{name}.weight"].view(1, -1, 1, 1), state[f"{name}.bias"].view(1, -1, 1, 1)
    return (maps - means) / torch.sqrt(variances + 1e-5) * weight + bias
