"""Changes timm's Vision Transformer: overlapping patches, images of any size, dropout, positions of other grids.

Dosovitskiy et al., ICLR 2021, arXiv:2010.11929; He et al., ICCV 2021, arXiv:2102.04378 (TransReID).

Shapes: h, w rows and columns of patches, P tokens in front of them (the class token), D width of a token.
"""

import math
from collections.abc import Sequence

import torch
from timm.layers import DropPath, Format, PatchEmbed, calculate_drop_path_rates
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import SpecError

LONGEST_GRID = 8
"""Times that a grid may be as long as it is wide; 197 positions, of DeiT with two tokens in front, make no grid."""
DROPS = ("drop_path", "drop_path1", "drop_path2")
"""timm's names, in a block, of what skips its branches in training."""


def is_vit(base: nn.Module) -> bool:
    """Whether it is a Vision Transformer whose patches are cut by one convolution."""
    return isinstance(base, VisionTransformer) and isinstance(base.patch_embed, PatchEmbed)


def grid_size(image: Sequence[int], *, patch: Sequence[int], stride: Sequence[int]) -> tuple[int, int]:
    """Rows and columns of patches of an image (height, width): TransReID, section 3.1; a rest is cut off."""
    rows, columns = ((size - side) // step + 1 for size, side, step in zip(image, patch, stride, strict=True))
    return rows, columns


def set_patches(base: VisionTransformer, *, height: int, width: int, stride_size: Sequence[int]) -> None:
    """Has images of this size cut every `stride_size` pixels (down, right), but at most a patch; changes it in place.

    The positions are drawn anew if their number changes; timm interpolates some networks' in each step, here none.
    Raises SpecError if the image is smaller than a patch.
    """
    embed = base.patch_embed
    stride = [min(step, side) for step, side in zip(stride_size, embed.patch_size, strict=True)]
    if height < embed.patch_size[0] or width < embed.patch_size[1]:
        raise SpecError(
            f"model.input_height, model.input_width: {height} x {width}\n"
            f"  want: at least one patch of {embed.patch_size[0]} x {embed.patch_size[1]}"
        )
    embed.proj.stride = tuple(stride)
    embed.img_size = (height, width)
    embed.grid_size = grid_size((height, width), patch=embed.patch_size, stride=stride)
    embed.num_patches = embed.grid_size[0] * embed.grid_size[1]
    embed.strict_img_size, embed.flatten, embed.output_fmt = True, True, Format.NCHW
    base.dynamic_img_size = False
    tokens = embed.num_patches + positions_in_front(base)
    if base.pos_embed is not None and base.pos_embed.shape[1] != tokens:
        drawn = torch.empty(1, tokens, base.pos_embed.shape[2])
        base.pos_embed = nn.Parameter(nn.init.trunc_normal_(drawn, std=0.02))


def positions_in_front(base: VisionTransformer) -> int:
    """How many of the positions belong to tokens that are no patches."""
    return 0 if base.no_embed_class else int(base.num_prefix_tokens)


def set_drop_rates(base: VisionTransformer, *, drop_path: float, drop_out: float, att_drop_rate: float) -> None:
    """Sets stochastic depth, which grows linearly over the blocks to `drop_path`, and both dropouts, in place."""
    rates = calculate_drop_path_rates(drop_path, len(base.blocks))
    for block, rate in zip(base.blocks, rates, strict=True):
        for name, module in list(block.named_modules()):
            parent, _, child = name.rpartition(".")
            if child in DROPS:
                setattr(block.get_submodule(parent), child, DropPath(rate) if rate else nn.Identity())
            elif isinstance(module, nn.Dropout):
                module.p = att_drop_rate if child == "attn_drop" else drop_out
    base.pos_drop.p = drop_out


def resized_positions(
    found: Tensor, base: VisionTransformer, *, old_grid: tuple[int, int] | None = None
) -> Tensor | None:
    """Positions (1, P + patches, D) of another grid, for the network's: bilinear, as TransReID's resize_pos_embed.

    Without `old_grid` it is square if it can be, else the grid nearest to the shape of the image. None if the tensor is
    not of such positions.
    """
    front, embed = positions_in_front(base), base.patch_embed
    count = found.shape[1] - front if found.ndim == 3 and base.pos_embed is not None else 0
    if count < 1 or found.shape[2] != base.pos_embed.shape[2]:
        return None
    rows, columns = old_grid or _likely_grid(count, image=embed.img_size)
    if rows * columns != count or max(rows, columns) > LONGEST_GRID * min(rows, columns):
        return None
    grid = found[:, front:].float().transpose(1, 2).reshape(1, -1, rows, columns)
    resized = F.interpolate(grid, size=embed.grid_size, mode="bilinear", align_corners=False)
    return torch.cat([found[:, :front].float(), resized.flatten(2).transpose(1, 2)], dim=1)


def _likely_grid(count: int, *, image: tuple[int, int]) -> tuple[int, int]:
    """The rows and columns of so many patches: a square if it can be, else the nearest to the shape of the image."""
    side = math.isqrt(count)
    if side * side == count:
        return side, side
    grids = [(count // columns, columns) for columns in range(1, count + 1) if count % columns == 0]
    return min(grids, key=lambda grid: (round(abs(math.log(grid[0] / grid[1] * image[1] / image[0])), 9), -grid[0]))
