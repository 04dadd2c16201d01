"""Finds out whose Vision Transformer a file holds, and gives its tensors this project's names.

TransReID, TransReID-SSL and PersonViT write timm's names under "base.", DINO under "backbone."; CLIP-ReID writes
OpenAI's names under "image_encoder.". Their embedding is the class token; CLIP-ReID's is the class token and its
projection side by side, each with a neck of its own.
"""

import re
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor

CLIP_REID, DINO, PASS, TRANSREID = "CLIP-ReID", "DINO", "PASS", "TransReID or PersonViT"
ASIDE = "aside."
"""The beginning of names here of tensors that have no place of their own: unused in the embedding, or joined."""

CLIP_NAMES = (
    (r"^conv1\.", "patch_embed.proj."),
    (r"^class_embedding$", "cls_token"),
    (r"^positional_embedding$", "pos_embed"),
    (r"^ln_pre\.", "norm_pre."),
    (r"^ln_post\.", "norm."),
    (r"^transformer\.resblocks\.", "blocks."),
    (r"\.ln_([12])\.", r".norm\1."),
    (r"\.attn\.in_proj_", ".attn.qkv."),
    (r"\.attn\.out_proj\.", ".attn.proj."),
    (r"\.mlp\.c_fc\.", ".mlp.fc1."),
    (r"\.mlp\.c_proj\.", ".mlp.fc2."),
)
"""OpenAI's names -> timm's."""
NOT_OF_THE_FEATURE = re.compile(r"(base\.|backbone\.)?(fc|head|head_dist|pre_logits)\..*")
"""A ViT's classifiers of ImageNet, and DINO's head."""

Named = dict[str, tuple[str, Tensor]]
"""This project's name -> (the file's name, the tensor)."""


def vit_kind(content: Any, tensors: Collection[str]) -> str | None:
    """Whose Vision Transformer it is, if only one project writes such names."""
    signs = {
        PASS: any("part_token" in name for name in tensors),
        CLIP_REID: "image_encoder.class_embedding" in tensors,
        TRANSREID: "base.cls_token" in tensors,
        DINO: "backbone.cls_token" in tensors and isinstance(content, dict) and "teacher" in content,
    }
    return next((kind for kind, holds in signs.items() if holds), None)


def is_vit_file(tensors: Collection[str]) -> bool:
    """Whether these are names of a Vision Transformer: timm's, bare or under base. or backbone., or CLIP-ReID's."""
    return any(re.fullmatch(r"((base|backbone)\.)?cls_token|image_encoder\.class_embedding", name) for name in tensors)


def vit_names(name: str, theirs: str, tensor: Tensor) -> Named | None:
    """A tensor that a ViT's file names in another way than other files do; None for all others."""
    if NOT_OF_THE_FEATURE.fullmatch(name):
        return {ASIDE + name: (theirs, tensor)}
    if name == "fcneck.weight":  # a reduction without a bias
        return {"reduction.weight": (theirs, tensor), "reduction.bias": (theirs, tensor.new_zeros(len(tensor)))}
    return None


def clip_reid_names(tensors: Mapping[str, Tensor]) -> Named:
    """CLIP-ReID's image encoder, with its two features as one reduction and its two necks as one.

    The class token x of width D becomes (x, x proj): a reduction whose matrix is the identity above proj. A BatchNorm
    is made of one figure per coordinate, so the two necks side by side are one.
    """
    named: Named = {}
    for theirs, tensor in tensors.items():
        name = theirs.removeprefix("image_encoder.")
        if theirs == "image_encoder.proj":
            both = torch.cat([torch.eye(len(tensor)), tensor.float().T])
            named |= {"reduction.weight": (theirs, both), "reduction.bias": (theirs, torch.zeros(len(both)))}
        elif theirs.startswith("image_encoder."):
            for pattern, replacement in CLIP_NAMES:
                name = re.sub(pattern, replacement, name)
            tokens = tensor.reshape(1, -1, tensor.shape[-1]) if name in ("cls_token", "pos_embed") else tensor
            named[f"base.{name}"] = (theirs, tokens)
        elif theirs.startswith("bottleneck."):
            other = tensors.get(f"bottleneck_proj.{theirs.removeprefix('bottleneck.')}")
            named[theirs] = (theirs, tensor if other is None or not tensor.ndim else torch.cat([tensor, other]))
        elif theirs.startswith(("classifier", "bottleneck_proj.", "text_encoder.", "prompt_learner.")):
            named[ASIDE + theirs] = (theirs, tensor)
        else:
            named[f"base.{theirs}"] = (theirs, tensor)
    return named
