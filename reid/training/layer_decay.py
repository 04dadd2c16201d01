"""Layer-wise learning-rate decay of a Vision Transformer: the nearer a layer is to the image, the slower it learns.

Bao et al., ICLR 2022, arXiv:2106.08254 (BEiT), get_num_layer_for_vit: layer 0 holds the patches, the positions and the
tokens, layer i the i-th block, and layer depth + 1 all else (the last norm, the neck, the classifier).
"""

import re
from typing import Any

from torch import nn

STEM = re.compile(r"base\.(cls_token|reg_token|dist_token|pos_embed|(patch_embed|norm_pre)\..*)")
BLOCK = re.compile(r"base\.blocks\.(\d+)\..*")


def split_by_layer(groups: list[dict[str, Any]], module: nn.Module, *, layer_decay: float) -> list[dict[str, Any]]:
    """The parameter groups, each split into one per layer whose lr is lr x layer_decay^(depth + 1 - layer).

    So there is one group per layer and kind. The last layer, whose rate is the group's own, comes first.
    """
    found = {name: BLOCK.fullmatch(name) for name, _ in module.named_parameters()}
    depth = 1 + max((int(block[1]) for block in found.values() if block), default=-1)
    layer_of = {
        id(tensor): 0 if STEM.fullmatch(name) else int(block[1]) + 1 if (block := found[name]) else depth + 1
        for name, tensor in module.named_parameters()
    }
    split = []
    for group in groups:
        for layer in range(depth + 1, -1, -1):
            own = [tensor for tensor in group["params"] if layer_of[id(tensor)] == layer]
            if own:
                rate = group["lr"] * layer_decay ** (depth + 1 - layer)
                split.append(group | {"name": f"{group['name']} of layer {layer}", "params": own, "lr": rate})
    return split
