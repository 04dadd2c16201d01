"""The papers' formulas of training, and TAO's networks, as slow loops; tests compare reid's with them."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F


def label_smoothed_cross_entropy(logits: Sequence[Sequence[float]], person: Sequence[int], epsilon: float) -> float:
    """Szegedy et al. 2016, section 7: q'(k) = (1 - epsilon) [k = y] + epsilon / K; mean of -sum_k q'(k) log p(k)."""
    total = 0.0
    for row, y in zip(logits, person, strict=True):
        log_sum = math.log(sum(math.exp(value) for value in row))
        for k, value in enumerate(row):
            target = (1 - epsilon) * (k == y) + epsilon / len(row)
            total -= target * (value - log_sum)
    return total / len(person)


def batch_hard_triplet(features: Sequence[Sequence[float]], person: Sequence[int], margin: float) -> float:
    """Hermans et al. 2017, eq. 5, the mean over anchors with a positive and a negative (0 if none)."""
    terms = []
    for a, anchor in enumerate(features):
        positives = [math.dist(anchor, x) for i, x in enumerate(features) if person[i] == person[a] and i != a]
        negatives = [math.dist(anchor, x) for i, x in enumerate(features) if person[i] != person[a]]
        if positives and negatives:
            terms.append(max(0.0, margin + max(positives) - min(negatives)))
    return sum(terms) / len(terms) if terms else 0.0


def center_loss(
    features: Sequence[Sequence[float]], person: Sequence[int], centers: Sequence[Sequence[float]]
) -> float:
    """Wen et al. 2016, eq. 2, as the mean over the batch and without the half."""
    return sum(math.dist(x, centers[y]) ** 2 for x, y in zip(features, person, strict=True)) / len(person)


def bnneck_logits(
    features: Sequence[Sequence[float]], scale: Sequence[float], classifier: Sequence[Sequence[float]]
) -> list[list[float]]:
    """Luo et al. 2019, section 3.5, in training: W f_i, where f_i is f_t normalised over the batch and scaled only."""
    columns = []
    for column, gamma in zip(zip(*features), scale, strict=True):
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / len(column)
        columns.append([gamma * (value - mean) / math.sqrt(variance + 1e-5) for value in column])
    return [[sum(x * w for x, w in zip(row, weights, strict=True)) for weights in classifier] for row in zip(*columns)]


def luo_warmup_multistep(
    epoch: int, warmup_factor: float, warmup_iters: int, lr_steps: Sequence[int], gamma: float
) -> float:
    """Luo et al. 2019, eq. 1, epochs from 1: linear to 1 at `warmup_iters`, then times gamma from each step on."""
    factor = 1.0
    if epoch < warmup_iters:
        factor = warmup_factor * (1 - epoch / warmup_iters) + epoch / warmup_iters
    for step in lr_steps:
        if epoch >= step:
            factor *= gamma
    return factor


def cosine_with_warmup(epoch: int, num_epochs: int, warmup_epochs: int) -> float:
    """TAO's cosine for a base rate of 1, epochs from 1: lr_min 0.002, warm-up from 0.01, one cycle of num_epochs."""
    if epoch < warmup_epochs:
        return 0.01 + epoch * (1 - 0.01) / warmup_epochs
    return 0.002 + 0.5 * (1 - 0.002) * (1 + math.cos(math.pi * min(epoch, num_epochs) / num_epochs))


def _instance_norm(maps: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    """Each channel of each image has mean 0 and variance 1: Ulyanov et al. 2016, arXiv:1607.08022, eq. 8."""
    mean = maps.mean(dim=(2, 3), keepdim=True)
    variance = ((maps - mean) ** 2).mean(dim=(2, 3), keepdim=True)
    normalised = (maps - mean) / torch.sqrt(variance + 1e-5)
    return normalised * state[f"{name}.weight"].view(1, -1, 1, 1) + state[f"{name}.bias"].view(1, -1, 1, 1)


def _norm(maps: Tensor, state: Mapping[str, Tensor], name: str) -> Tensor:
    if f"{name}.IN.weight" in state:  # IBN-a: Pan et al. 2018, figure 3
        half = maps.shape[1] // 2
        apart = [_instance_norm(maps[:, :half], state, f"{name}.IN"), _norm(maps[:, half:], state, f"{name}.BN")]
        return torch.cat(apart, dim=1)
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    shape = (1, -1) + (1,) * (maps.ndim - 2)
    scale = state[f"{name}.weight"] / torch.sqrt(variance + 1e-5)
    return (maps - mean.view(shape)) * scale.view(shape) + state[f"{name}.bias"].view(shape)


def resnet_map(
    images: Tensor,
    base: Mapping[str, Tensor],
    *,
    stage_depths: Sequence[int],
    last_stride: int,
    stem_relu: bool = True,
    stem_pool: str = "padded",
) -> Tensor:
    """A ResNet of torchvision's names, written out: images (B, 3, H, W), state dict -> map (B, D, h, w).

    A stage's stride lies in its first block's first 3 x 3 convolution and in its shortcut (He et al. 2016, v1.5).
    """
    maps = _norm(F.conv2d(images, base["conv1.weight"], stride=2, padding=3), base, "bn1")
    maps = maps.relu() if stem_relu else maps
    if stem_pool == "padded":
        maps = F.max_pool2d(maps, kernel_size=3, stride=2, padding=1)
    else:
        maps = F.max_pool2d(maps, kernel_size=3, stride=2, ceil_mode=True)
    bottlenecks = "layer1.0.conv3.weight" in base
    for stage, depth in enumerate(stage_depths, start=1):
        for block in range(depth):
            name = f"layer{stage}.{block}"
            stride = 1 if block > 0 or stage == 1 else (last_stride if stage == 4 else 2)
            inner = maps
            for number in (1, 2, 3) if bottlenecks else (1, 2):
                kernel = base[f"{name}.conv{number}.weight"]
                strided = stride if number == (2 if bottlenecks else 1) else 1
                inner = F.conv2d(inner, kernel, stride=strided, padding=kernel.shape[2] // 2)
                inner = _norm(inner, base, f"{name}.bn{number}")
                inner = inner if number == (3 if bottlenecks else 2) else inner.relu()
            if f"{name}.downsample.0.weight" in base:
                shortcut = F.conv2d(maps, base[f"{name}.downsample.0.weight"], stride=stride)
                maps = _norm(shortcut, base, f"{name}.downsample.1")
            maps = (maps + inner).relu()
    return maps


def tao_resnet_embedding(
    images: Tensor, state: Mapping[str, Tensor], *, stage_depths: Sequence[int], last_stride: int
) -> Tensor:
    """TAO's ResNet of bottlenecks: images (B, 3, H, W), TAO's state dict -> embedding (B, D).

    No ReLU behind the stem's normalisation; the 1 x 1 convolution `base.feature`, with its bias, comes before the
    pooling; then the BNNeck.
    """
    base = {name.removeprefix("model.base."): tensor for name, tensor in state.items()}
    maps = resnet_map(images, base, stage_depths=stage_depths, last_stride=last_stride, stem_relu=False)
    maps = F.conv2d(maps, base["feature.weight"], base["feature.bias"])
    return _norm(maps.mean(dim=(2, 3)), {k.removeprefix("model."): v for k, v in state.items()}, "bottleneck")


def strong_baseline_embedding(
    images: Tensor, state: Mapping[str, Tensor], *, stage_depths: Sequence[int], last_stride: int, neck_feat: str
) -> Tensor:
    """reid-strong-baseline's: global average pooling, the feature after or before the BNNeck.

    Its resnet.py has no ReLU in the stem, its resnet_ibn_a.py has one.
    """
    base = {name.removeprefix("base."): tensor for name, tensor in state.items()}
    relu = "layer1.0.bn1.IN.weight" in base
    maps = resnet_map(images, base, stage_depths=stage_depths, last_stride=last_stride, stem_relu=relu)
    feature = maps.mean(dim=(2, 3))
    return _norm(feature, state, "bottleneck") if neck_feat == "after" else feature


def fast_reid_embedding(
    images: Tensor, state: Mapping[str, Tensor], *, stage_depths: Sequence[int], last_stride: int, stem_pool: str
) -> Tensor:
    """fast-reid's Baseline with EmbeddingHead: average pooling, a 1 x 1 convolution without a bias if any, BNNeck."""
    base = {name.removeprefix("backbone."): tensor for name, tensor in state.items()}
    maps = resnet_map(images, base, stage_depths=stage_depths, last_stride=last_stride, stem_pool=stem_pool)
    pooled = maps.mean(dim=(2, 3), keepdim=True)
    if state["heads.bottleneck.0.weight"].ndim == 4:
        reduced = F.conv2d(pooled, state["heads.bottleneck.0.weight"])
        return _norm(reduced, state, "heads.bottleneck.1")[..., 0, 0]
    return _norm(pooled, state, "heads.bottleneck.0")[..., 0, 0]


def torchreid_embedding(
    images: Tensor, state: Mapping[str, Tensor], *, stage_depths: Sequence[int], last_stride: int
) -> Tensor:
    """torchreid's resnet50: the pooled map of torchvision's network."""
    return resnet_map(images, state, stage_depths=stage_depths, last_stride=last_stride).mean(dim=(2, 3))


def shifted_window_attention(
    patches: Tensor,
    *,
    qkv: Tensor,
    qkv_bias: Tensor,
    proj: Tensor,
    proj_bias: Tensor,
    table: Tensor,
    window: int,
    shift: int,
) -> Tensor:
    """mmcv's shifted window attention, pair by pair: patches (H, W, C), table ((2 window - 1)^2, heads) -> (H, W, C).

    The patches are padded by zeros to whole windows, then shifted cyclically; a pair whose patches were not
    neighbours before the shift gets -100 on its logit. Liu et al. 2021, section 3.2 and eq. 4.
    """
    height, width, channels = patches.shape
    heads = table.shape[1]
    rows, columns = -(-height // window) * window, -(-width // window) * window
    padded = torch.zeros(rows, columns, channels)
    padded[:height, :width] = patches
    projected = (padded @ qkv.T + qkv_bias).view(rows, columns, 3, heads, channels // heads)

    def region(position: int, length: int) -> int:
        if shift == 0 or position < length - window:
            return 0
        return 1 if position < length - shift else 2

    mixed = torch.zeros(rows, columns, channels)
    for top in range(0, rows, window):
        for left in range(0, columns, window):
            places = [(i, j) for i in range(top, top + window) for j in range(left, left + window)]  # after the shift
            for i, j in places:
                origin = ((i + shift) % rows, (j + shift) % columns)
                for head in range(heads):
                    query = projected[origin][0, head]
                    logits, values = [], []
                    for k, m in places:
                        other = projected[(k + shift) % rows, (m + shift) % columns]
                        relative = (i - k + window - 1) * (2 * window - 1) + j - m + window - 1
                        apart = (region(i, rows), region(j, columns)) != (region(k, rows), region(m, columns))
                        similarity = query @ other[1, head] / math.sqrt(channels // heads)
                        logits.append(similarity + table[relative, head] - 100.0 * apart)
                        values.append(other[2, head])
                    weight = torch.stack(logits).softmax(dim=0)
                    part = slice(head * channels // heads, (head + 1) * channels // heads)
                    mixed[origin][part] = weight @ torch.stack(values)
    return (mixed @ proj.T + proj_bias)[:height, :width]


def mm_patch_merging(patches: Tensor, *, norm: Tensor, norm_bias: Tensor, reduction: Tensor) -> Tensor:
    """mmcv's patch merging of even maps: patches (H, W, C) -> (H / 2, W / 2, 2 C); channels outermost, as in Unfold."""
    height, width, channels = patches.shape
    merged = torch.zeros(height // 2, width // 2, 4 * channels)
    for i in range(height // 2):
        for j in range(width // 2):
            for c in range(channels):
                for row in range(2):
                    for column in range(2):
                        merged[i, j, c * 4 + row * 2 + column] = patches[2 * i + row, 2 * j + column, c]
    return F.layer_norm(merged, (4 * channels,), norm, norm_bias) @ reduction.T
