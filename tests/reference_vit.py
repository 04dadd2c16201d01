"""Vision Transformers of other projects as formulas over their own state dicts, without a line of ours or of timm's.

Shapes: B images, N tokens, D width of a token.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def quick_gelu(x: Tensor) -> Tensor:
    return x / (1 + torch.exp(-1.702 * x))


def attention(x: Tensor, qkv: Tensor, bias: Tensor, *, heads: int) -> Tensor:
    """x (B, N, D) -> softmax(q k^T / sqrt(D / heads)) v, of all heads side by side."""
    q, k, v = (x @ qkv.T + bias).chunk(3, dim=-1)
    width = q.shape[-1] // heads
    parts = []
    for head in range(heads):
        own = slice(head * width, (head + 1) * width)
        weights = torch.softmax(q[..., own] @ k[..., own].mT / width**0.5, dim=-1)
        parts.append(weights @ v[..., own])
    return torch.cat(parts, dim=-1)


def patches(images: Tensor, kernel: Tensor, bias: Tensor | None, *, stride: int) -> Tensor:
    """images (B, C, H, W) -> a token for every window, row by row (B, N, D)."""
    side = kernel.shape[2]
    tokens = []
    for top in range(0, images.shape[2] - side + 1, stride):
        for left in range(0, images.shape[3] - side + 1, stride):
            window = images[:, :, top : top + side, left : left + side].flatten(1)
            tokens.append(window @ kernel.flatten(1).T + (0 if bias is None else bias))
    return torch.stack(tokens, dim=1)


def vit_tokens(images: Tensor, state: State, *, prefix: str, heads: int, stride: int) -> Tensor:
    """The normalised tokens behind the last block (B, N, D), the class token first: names of TransReID, DINO, timm.

    vit_pytorch.py, TransReID.forward_features without side information; vision_transformer.py of DINO.
    """
    part = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
    own = patches(images, part["patch_embed.proj.weight"], part["patch_embed.proj.bias"], stride=stride)
    x = torch.cat([part["cls_token"].expand(len(images), -1, -1), own], dim=1) + part["pos_embed"]
    depth = 1 + max(int(name.split(".")[1]) for name in part if name.startswith("blocks."))

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], eps=1e-6)

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ part[f"{name}.weight"].T + part[f"{name}.bias"]

    for block in (f"blocks.{number}" for number in range(depth)):
        mixed = attention(
            norm(x, f"{block}.norm1"), part[f"{block}.attn.qkv.weight"], part[f"{block}.attn.qkv.bias"], heads=heads
        )
        x = x + linear(mixed, f"{block}.attn.proj")
        x = x + linear(F.gelu(linear(norm(x, f"{block}.norm2"), f"{block}.mlp.fc1")), f"{block}.mlp.fc2")
    return norm(x, "norm")


def batch_norm(x: Tensor, state: State, name: str) -> Tensor:
    """A BNNeck in evaluation."""
    mean, variance = state[f"{name}.running_mean"], state[f"{name}.running_var"]
    return (x - mean) / torch.sqrt(variance + 1e-5) * state[f"{name}.weight"] + state[f"{name}.bias"]


def transreid_embedding(images: Tensor, state: State, *, heads: int, stride: int, neck_feat: str) -> Tensor:
    """make_model.py of TransReID, TransReID-SSL and PersonViT, build_transformer.forward: the class token, the neck."""
    feature = vit_tokens(images, state, prefix="base.", heads=heads, stride=stride)[:, 0]
    if "fcneck.weight" in state:
        feature = feature @ state["fcneck.weight"].T
    return feature if neck_feat == "before" else batch_norm(feature, state, "bottleneck")


def clip_reid_embedding(images: Tensor, state: State, *, heads: int, stride: int, neck_feat: str) -> Tensor:
    """make_model_clipreid.py of CLIP-ReID: the class token and its projection side by side, each with its own neck."""
    part = {name.removeprefix("image_encoder."): tensor for name, tensor in state.items()}
    own = patches(images, part["conv1.weight"], None, stride=stride)
    x = torch.cat([part["class_embedding"].expand(len(images), 1, -1), own], dim=1) + part["positional_embedding"]

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], part[f"{name}.weight"], part[f"{name}.bias"], eps=1e-5)

    x = norm(x, "ln_pre")
    depth = 1 + max(int(name.split(".")[2]) for name in part if name.startswith("transformer.resblocks."))
    for block in (f"transformer.resblocks.{number}" for number in range(depth)):
        mixed = attention(
            norm(x, f"{block}.ln_1"), part[f"{block}.attn.in_proj_weight"], part[f"{block}.attn.in_proj_bias"],
            heads=heads,
        )  # fmt: skip
        x = x + mixed @ part[f"{block}.attn.out_proj.weight"].T + part[f"{block}.attn.out_proj.bias"]
        inner = norm(x, f"{block}.ln_2") @ part[f"{block}.mlp.c_fc.weight"].T + part[f"{block}.mlp.c_fc.bias"]
        x = x + quick_gelu(inner) @ part[f"{block}.mlp.c_proj.weight"].T + part[f"{block}.mlp.c_proj.bias"]
    feature = norm(x, "ln_post")[:, 0]
    projected = feature @ part["proj"]
    if neck_feat == "before":
        return torch.cat([feature, projected], dim=1)
    return torch.cat([batch_norm(feature, state, "bottleneck"), batch_norm(projected, state, "bottleneck_proj")], dim=1)
