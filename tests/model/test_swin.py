"""Swin as TAO and SOLIDER have it, against a re-statement a pair of patches at a time."""

from typing import Any

import pytest
import timm
import torch
from torch.nn import functional as F

from reid.model.embedder import Embedder, build_embedder
from reid.model.swin import PadThenShiftBlock, SemanticMerging, follow_tao
from tests import reference_training as reference
from tests.networks import network_settings


def tiny_swin(semantic_weight: float = 1.0, *, drawn_controller: bool = False) -> Any:
    """Two stages of two blocks, window 3, at 20 x 12: a map of 5 x 3 patches, which no window divides."""
    torch.manual_seed(0)
    base = timm.create_model(
        "swin_tiny_patch4_window7_224", pretrained=False, num_classes=0, img_size=(20, 12), embed_dim=8, depths=(2, 2),
        num_heads=(2, 2), window_size=3, always_partition=True,
    )  # fmt: skip
    follow_tao(base, semantic_weight=semantic_weight)
    for name, tensor in base.named_parameters():
        if "semantic" not in name or drawn_controller:
            torch.nn.init.normal_(tensor, std=0.5)
    return base.eval()


@pytest.mark.parametrize("block_index", [0, 1])
def test_window_attention_pads_and_then_shifts_as_mmcv_does(block_index: int) -> None:
    block = tiny_swin().layers[0].blocks[block_index]
    assert isinstance(block, PadThenShiftBlock)
    patches = torch.randn(5, 3, 8)
    attention = block.attn
    with torch.inference_mode():
        expected = reference.shifted_window_attention(
            patches, qkv=attention.qkv.weight, qkv_bias=attention.qkv.bias, proj=attention.proj.weight,
            proj_bias=attention.proj.bias, table=attention.relative_position_bias_table, window=3, shift=block_index,
        )  # fmt: skip
        found = block._attn(patches[None])[0]
    # float32 sums in another order
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_the_semantic_controller_scales_and_shifts_what_the_merging_gives() -> None:
    merging = tiny_swin(semantic_weight=0.2, drawn_controller=True).layers[1].downsample
    assert isinstance(merging, SemanticMerging)
    patches = torch.randn(1, 4, 2, 8)
    plain = timm.models.swin_transformer.PatchMerging.forward(merging, patches)
    w, b = merging.semantic_scale, merging.semantic_shift
    scale = F.softplus(0.2 * w.weight[:, 0] + 0.8 * w.weight[:, 1] + w.bias)
    shift = 0.2 * b.weight[:, 0] + 0.8 * b.weight[:, 1] + b.bias
    torch.testing.assert_close(merging(patches), plain * scale + shift)


def test_the_semantic_controller_is_the_identity_until_weights_bring_one_and_is_frozen() -> None:
    merging = tiny_swin().layers[1].downsample
    patches = torch.randn(1, 4, 2, 8)
    plain = timm.models.swin_transformer.PatchMerging.forward(merging, patches)
    torch.testing.assert_close(merging(patches), plain)
    assert {name for name, tensor in merging.named_parameters() if not tensor.requires_grad} == {
        "semantic_scale.weight", "semantic_scale.bias", "semantic_shift.weight", "semantic_shift.bias",
    }  # fmt: skip


def test_a_negative_semantic_weight_leaves_the_controller_out() -> None:
    assert not any("semantic" in name for name in tiny_swin(semantic_weight=-1).state_dict())


def swin(**changes: Any) -> Embedder:
    return build_embedder(**network_settings(backbone="swin_tiny_patch4_window7_224", **changes))


def test_swin_takes_any_size_and_reduces_only_when_told() -> None:
    plain = swin(height=72, width=40, feat_dim=16)
    assert plain.embedding_size == 768
    with torch.inference_mode():
        assert plain.eval()(torch.zeros(2, 3, 72, 40)).shape == (2, 768)
    reduced = swin(feat_dim=16, reduce_feat_dim=True)
    assert (reduced.embedding_size, reduced.reduction.bias) == (16, None)
    features, logits = reduced.train()(torch.zeros(2, 3, 64, 32))
    assert (features.shape, logits.shape) == ((2, 16), (2, 5))


def test_the_swin_rates_of_dropping_reach_its_blocks() -> None:
    network = swin(drop_path=0.3, drop_out=0.4, att_drop_rate=0.2, feat_dim=None)
    last = network.base.layers[3].blocks[-1]  # type: ignore[union-attr, index]
    # stochastic depth grows linearly over the blocks up to its rate
    assert last.drop_path1.drop_prob == pytest.approx(0.3)
    assert (last.attn.attn_drop.p, last.attn.proj_drop.p, last.mlp.drop1.p) == (0.2, 0.4, 0.4)
