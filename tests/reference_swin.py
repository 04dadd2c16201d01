"""TAO's and SOLIDER's Swin Transformer as slow loops, written after mmcv's and with its names."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from tests.reference_training import mm_patch_merging, shifted_window_attention

WINDOW = 7


def tao_swin_embedding(
    image: Tensor, state: Mapping[str, Tensor], *, stage_depths: Sequence[int], semantic_weight: float
) -> Tensor:
    """image (3, H, W), TAO's state dict -> embedding (D,), after the BNNeck.

    Every second block shifts its windows, however small the map; after a stage's merging the semantic controller
    scales and shifts (Chen et al. 2023, eq. 5); the last map is normalised, pooled by its mean, reduced without a bias.
    """
    named = {name.removeprefix("model."): tensor for name, tensor in state.items()}
    base = {name.removeprefix("base."): tensor for name, tensor in named.items()}

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ base[f"{name}.weight"].T + base[f"{name}.bias"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], base[f"{name}.weight"], base[f"{name}.bias"])

    kernel, bias = base["patch_embed.projection.weight"], base["patch_embed.projection.bias"]
    x = norm(F.conv2d(image[None], kernel, bias, stride=4)[0].permute(1, 2, 0), "patch_embed.norm")
    for stage, depth in enumerate(stage_depths):
        for block in range(depth):
            name = f"stages.{stage}.blocks.{block}"
            x = x + shifted_window_attention(
                norm(x, f"{name}.norm1"),
                qkv=base[f"{name}.attn.w_msa.qkv.weight"],
                qkv_bias=base[f"{name}.attn.w_msa.qkv.bias"],
                proj=base[f"{name}.attn.w_msa.proj.weight"],
                proj_bias=base[f"{name}.attn.w_msa.proj.bias"],
                table=base[f"{name}.attn.w_msa.relative_position_bias_table"],
                window=WINDOW,
                shift=WINDOW // 2 if block % 2 else 0,
            )
            inner = F.gelu(linear(norm(x, f"{name}.norm2"), f"{name}.ffn.layers.0.0"))
            x = x + linear(inner, f"{name}.ffn.layers.1")
        if stage < len(stage_depths) - 1:
            x = mm_patch_merging(
                x,
                norm=base[f"stages.{stage}.downsample.norm.weight"],
                norm_bias=base[f"stages.{stage}.downsample.norm.bias"],
                reduction=base[f"stages.{stage}.downsample.reduction.weight"],
            )
            control = torch.tensor([semantic_weight, 1 - semantic_weight])
            scale = F.softplus(linear(control, f"semantic_embed_w.{stage}"))
            x = x * scale + linear(control, f"semantic_embed_b.{stage}")
    feature = named["fcneck.weight"] @ norm(x, f"norm{len(stage_depths) - 1}").mean(dim=(0, 1))
    scale = named["bottleneck.weight"] / torch.sqrt(named["bottleneck.running_var"] + 1e-5)
    return (feature - named["bottleneck.running_mean"]) * scale + named["bottleneck.bias"]
