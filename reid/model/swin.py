"""Changes timm's Swin Transformer so that TAO's and SOLIDER's weights give their features.

Liu et al., ICCV 2021, arXiv:2103.14030; Chen et al., CVPR 2023 (SOLIDER), arXiv:2303.17602.

Shapes: B images, H and W rows and columns of patches, C channels.
"""

import torch
from timm.models.swin_transformer import (
    PatchMerging,
    SwinTransformer,
    SwinTransformerBlock,
    window_partition,
    window_reverse,
)
from torch import Tensor, nn
from torch.nn import functional as F

IDENTITY_BEFORE_SOFTPLUS = 0.541324854612918
"""log(e - 1), whose softplus is 1."""


class PadThenShiftBlock(SwinTransformerBlock):  # type: ignore[misc]
    """A block that pads the patches to whole windows and then shifts them cyclically.

    timm shifts first and pads then. So if a map is not made of whole windows (at 224 x 224 all are), timm's shifted
    blocks mix other neighbours than those that TAO's, SOLIDER's and Microsoft's detection weights were trained with.
    """

    def _attn(self, patches: Tensor) -> Tensor:
        """patches (B, H, W, C), normalised -> what window attention adds to them (B, H, W, C)."""
        _, height, width, channels = patches.shape
        (window_height, window_width), (shift_down, shift_right) = self.window_size, self.shift_size
        padded = F.pad(patches, (0, 0, 0, -width % window_width, 0, -height % window_height))
        padded_height, padded_width = padded.shape[1:3]
        shifts = shift_down or shift_right
        if shifts:
            padded = torch.roll(padded, shifts=(-shift_down, -shift_right), dims=(1, 2))
        windows = window_partition(padded, self.window_size).view(-1, self.window_area, channels)
        attended = self.attn(windows, mask=self.attn_mask).view(-1, window_height, window_width, channels)
        mixed = window_reverse(attended, self.window_size, padded_height, padded_width)
        if shifts:
            mixed = torch.roll(mixed, shifts=(shift_down, shift_right), dims=(1, 2))
        cropped: Tensor = mixed[:, :height, :width].contiguous()
        return cropped


class SemanticMerging(PatchMerging):  # type: ignore[misc]
    """Patch merging, then SOLIDER's semantic controller: x softplus(scale) + shift, linear in (weight, 1 - weight).

    The controller's tensors are frozen, for they come with SOLIDER's or TAO's weights. Without such weights it is the
    identity here; the originals draw it at random.
    """

    def __init__(self, dim: int, out_dim: int, *, semantic_weight: float) -> None:
        super().__init__(dim, out_dim)
        self.semantic_scale = nn.Linear(2, out_dim).requires_grad_(False)
        self.semantic_shift = nn.Linear(2, out_dim).requires_grad_(False)
        nn.init.trunc_normal_(self.reduction.weight, std=0.02)
        for tensor in (self.semantic_scale.weight, self.semantic_shift.weight, self.semantic_shift.bias):
            nn.init.zeros_(tensor)
        nn.init.constant_(self.semantic_scale.bias, IDENTITY_BEFORE_SOFTPLUS)
        self.register_buffer("control", torch.tensor([semantic_weight, 1 - semantic_weight]), persistent=False)

    def forward(self, patches: Tensor) -> Tensor:
        """patches (B, H, W, C) -> (B, ceil(H / 2), ceil(W / 2), 2 C)."""
        merged: Tensor = super().forward(patches)
        scale, shift = F.softplus(self.semantic_scale(self.control)), self.semantic_shift(self.control)
        return torch.addcmul(shift, merged, scale)


def follow_tao(base: SwinTransformer, *, semantic_weight: float) -> None:
    """Turns timm's Swin, built with always_partition, into TAO's in place; no controller if `semantic_weight` < 0."""
    for stage in base.layers:
        for block in stage.blocks:
            block.__class__ = PadThenShiftBlock  # timm's stage builds its own blocks; only one method differs
        if semantic_weight >= 0 and isinstance(stage.downsample, PatchMerging):
            merging = stage.downsample
            stage.downsample = SemanticMerging(merging.dim, merging.out_dim, semantic_weight=semantic_weight)
