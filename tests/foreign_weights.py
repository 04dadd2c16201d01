"""Weights drawn under the names of other projects, without a line of ours: what their checkpoints hold."""

from collections.abc import Sequence

import torch
from torch import Tensor

RESNET_50 = (3, 4, 6, 3)
RESNET_18 = (2, 2, 2, 2)
SWIN_TINY = (2, 2, 6, 2)


class _Drawn:
    """A state dict that grows; weights keep the size of what passes, norms have seen some training."""

    def __init__(self, seed: int) -> None:
        self.state: dict[str, Tensor] = {}
        self._rng = torch.Generator().manual_seed(seed)

    def weight(self, name: str, *shape: int) -> None:
        fan_in = torch.Size(shape[1:]).numel()
        self.state[name] = torch.randn(shape, generator=self._rng) * (2 / fan_in) ** 0.5

    def norm(self, name: str, width: int, scale: float = 1.0) -> None:
        self.state[f"{name}.weight"] = torch.full((width,), scale)
        self.state[f"{name}.bias"] = torch.randn(width, generator=self._rng) * 0.1
        self.state[f"{name}.running_mean"] = torch.randn(width, generator=self._rng) * 0.1
        self.state[f"{name}.running_var"] = torch.rand(width, generator=self._rng) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    def instance_norm(self, name: str, width: int) -> None:
        self.state[f"{name}.weight"] = torch.rand(width, generator=self._rng) + 0.5
        self.state[f"{name}.bias"] = torch.randn(width, generator=self._rng) * 0.1

    def ibn(self, name: str, width: int) -> None:
        self.instance_norm(f"{name}.IN", width // 2)
        self.norm(f"{name}.BN", width // 2)


def resnet(*, depths: Sequence[int], bottlenecks: bool, seed: int = 0, ibn: bool = False) -> dict[str, Tensor]:
    """torchvision's ResNet without its classifier; with `ibn` IBN-Net's ResNet IBN-a."""
    drawn, width = _Drawn(seed), 64
    drawn.weight("conv1.weight", 64, 3, 7, 7)
    drawn.norm("bn1", 64)
    drawn.state["bn1.bias"] -= 1  # many a maximum over three by three is negative then, and a ReLU there shows
    for stage, depth in enumerate(depths):
        inner = 64 * 2**stage
        outer = inner * (4 if bottlenecks else 1)
        for block in range(depth):
            name = f"layer{stage + 1}.{block}"
            if bottlenecks:
                kernels = [(inner, width, 1), (inner, inner, 3), (outer, inner, 1)]
            else:
                kernels = [(inner, width, 3), (outer, inner, 3)]
            for number, (out, into, size) in enumerate(kernels, start=1):
                drawn.weight(f"{name}.conv{number}.weight", out, into, size, size)
                if ibn and number == 1 and stage < 3:
                    drawn.ibn(f"{name}.bn1", out)
                else:
                    drawn.norm(f"{name}.bn{number}", out, scale=0.3 if number == len(kernels) else 1.0)
            if block == 0 and (stage or bottlenecks):
                drawn.weight(f"{name}.downsample.0.weight", outer, width, 1, 1)
                drawn.norm(f"{name}.downsample.1", outer)
            width = outer
    return drawn.state


def head(width: int, *, persons: int, seed: int = 1) -> dict[str, Tensor]:
    """The BNNeck and the classifier of the strong baseline, which TAO has taken over."""
    drawn = _Drawn(seed)
    drawn.norm("bottleneck", width)
    drawn.weight("classifier.weight", persons, width)
    return drawn.state


def tao(*, width: int, persons: int, depths: Sequence[int] = RESNET_50) -> dict[str, Tensor]:
    """TAO's ResNet, of bottlenecks whatever its depth, under `state_dict` of its Lightning checkpoint."""
    drawn = _Drawn(2)
    drawn.weight("feature.weight", width, 2048, 1, 1)
    drawn.weight("feature.bias", width, 1)
    feature = drawn.state | {"feature.bias": drawn.state["feature.bias"][:, 0]}
    base = resnet(depths=depths, bottlenecks=True) | feature
    state = {f"base.{name}": tensor for name, tensor in base.items()} | head(width, persons=persons)
    return {f"model.{name}": tensor for name, tensor in state.items()}


def strong_baseline(*, persons: int, ibn: bool = False) -> dict[str, Tensor]:
    """reid-strong-baseline's ResNet-50, or its resnet50_ibn_a, the whole file."""
    base = resnet(depths=RESNET_50, bottlenecks=True, ibn=ibn)
    return {f"base.{name}": tensor for name, tensor in base.items()} | head(2048, persons=persons)


def fast_reid(*, persons: int, embedding_dim: int = 0, ibn: bool = False) -> dict[str, Tensor]:
    """fast-reid's BoT with a ResNet-18 ("18x"; with `ibn` WITH_IBN), under `model` of its checkpoint."""
    drawn = _Drawn(3)
    if embedding_dim:
        drawn.weight("heads.bottleneck.0.weight", embedding_dim, 512, 1, 1)
    drawn.norm(f"heads.bottleneck.{1 if embedding_dim else 0}", embedding_dim or 512)
    drawn.weight("heads.weight", persons, embedding_dim or 512)
    base = resnet(depths=RESNET_18, bottlenecks=False, ibn=ibn)
    return {f"backbone.{name}": tensor for name, tensor in base.items()} | drawn.state


def ibn_net(*, depths: Sequence[int] = RESNET_18) -> dict[str, Tensor]:
    """IBN-Net's resnet18_ibn_a or resnet34_ibn_a, the whole file: a network for ImageNet's thousand classes."""
    drawn = _Drawn(6)
    drawn.weight("fc.weight", 1000, 512)
    return resnet(depths=depths, bottlenecks=False, ibn=True) | drawn.state | {"fc.bias": torch.zeros(1000)}


def torchreid(*, persons: int) -> dict[str, Tensor]:
    """torchreid's resnet50, under `state_dict` of its checkpoint; its classifier has a bias, and there is no neck."""
    classifier = {"classifier.weight": torch.zeros(persons, 2048), "classifier.bias": torch.zeros(persons)}
    return resnet(depths=RESNET_50, bottlenecks=True) | classifier


def osnet(kind: str, *, stem: int, persons: int, width: int | None = 512) -> dict[str, Tensor]:
    """torchreid's OSNet: kind "plain" and "ibn" of its osnet.py, "ain" of its osnet_ain.py; `stem` is its width / 64.

    Without a `width` it has no `fc`, as fast-reid's OSNet.
    """
    drawn, ain = _Drawn(7), kind == "ain"
    instance = {"plain": (), "ibn": ("conv2.0", "conv2.1"), "ain": ("conv2.0", "conv2.1", "conv3.1", "conv4.0")}[kind]

    def conv(name: str, out: int, into: int, size: int = 1, *, norm: bool = True) -> None:
        drawn.weight(f"{name}.conv.weight", out, into, size, size)
        if norm:
            drawn.norm(f"{name}.bn", out)

    conv("conv1", stem, 3, 7, norm=kind == "plain")
    if kind != "plain":
        drawn.instance_norm("conv1.bn", stem)
    into = stem
    for stage, out in (("conv2", 4 * stem), ("conv3", 6 * stem), ("conv4", 8 * stem)):
        for block in (f"{stage}.0", f"{stage}.1"):
            conv(f"{block}.conv1", out // 4, into)
            for stream in range(4):
                for layer in range(stream + 1):
                    name = f"conv2{'abcd'[stream]}" + (f".{layer}" if stream else "")
                    name = f"{block}.conv2.{stream}.layers.{layer}" if ain else f"{block}.{name}"
                    drawn.weight(f"{name}.conv1.weight", out // 4, out // 4, 1, 1)
                    drawn.weight(f"{name}.conv2.weight", out // 4, 1, 3, 3)
                    drawn.norm(f"{name}.bn", out // 4)
            for layer, shape in (("fc1", (out // 64, out // 4, 1, 1)), ("fc2", (out // 4, out // 64, 1, 1))):
                drawn.weight(f"{block}.gate.{layer}.weight", *shape)
                drawn.state[f"{block}.gate.{layer}.bias"] = torch.full(shape[:1], 0.1)
            conv(f"{block}.conv3", out, out // 4, norm=not (ain and block in instance))
            if block in instance:
                drawn.instance_norm(f"{block}.IN", out)
            if into != out:
                conv(f"{block}.downsample", out, into)
            into = out
        if stage != "conv4":
            conv(stage.replace("conv", "pool") + ".0" if ain else f"{stage}.2.0", out, out)
    conv("conv5", 8 * stem, 8 * stem)
    if width is not None:
        drawn.weight("fc.0.weight", width, 8 * stem)
        drawn.state["fc.0.bias"] = torch.zeros(width)
        drawn.norm("fc.1", width)
    classifier = {"classifier.weight": torch.ones(persons, width or 1), "classifier.bias": torch.zeros(persons)}
    return drawn.state | (classifier if width is not None else {})


def tao_swin(*, width: int, persons: int) -> dict[str, Tensor]:
    """TAO's Swin-T with reduce_feat_dim, under `state_dict` of its Lightning checkpoint."""
    drawn = _Drawn(4)

    def linear(name: str, out: int, into: int) -> None:
        drawn.weight(f"{name}.weight", out, into)
        drawn.state[f"{name}.weight"] /= 2
        drawn.weight(f"{name}.bias", out, 100)
        drawn.state[f"{name}.bias"] = drawn.state[f"{name}.bias"][:, 0]

    def norm(name: str, channels: int) -> None:
        drawn.norm(name, channels)
        for buffer in ("running_mean", "running_var", "num_batches_tracked"):
            del drawn.state[f"{name}.{buffer}"]

    drawn.weight("patch_embed.projection.weight", 96, 3, 4, 4)
    drawn.state["patch_embed.projection.bias"] = torch.full((96,), 0.1)
    norm("patch_embed.norm", 96)
    for stage, depth in enumerate(SWIN_TINY):
        channels = 96 * 2**stage
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            drawn.weight(f"{name}.attn.w_msa.relative_position_bias_table", 13 * 13, 3 * 2**stage)
            drawn.state[f"{name}.attn.w_msa.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
            linear(f"{name}.attn.w_msa.qkv", 3 * channels, channels)
            linear(f"{name}.attn.w_msa.proj", channels, channels)
            linear(f"{name}.ffn.layers.0.0", 4 * channels, channels)
            linear(f"{name}.ffn.layers.1", channels, 4 * channels)
            norm(f"{name}.norm1", channels)
            norm(f"{name}.norm2", channels)
        if stage < 3:
            norm(f"stages.{stage}.downsample.norm", 4 * channels)
            drawn.weight(f"stages.{stage}.downsample.reduction.weight", 2 * channels, 4 * channels)
        norm(f"norm{stage}", channels)
        linear(f"semantic_embed_w.{stage}", min(2 * channels, 768), 2)
        linear(f"semantic_embed_b.{stage}", min(2 * channels, 768), 2)
    state = {f"base.{name}": tensor for name, tensor in drawn.state.items()} | head(width, persons=persons)
    reduction = _Drawn(5)
    reduction.weight("fcneck.weight", width, 768)
    return {f"model.{name}": tensor for name, tensor in (state | reduction.state).items()}
