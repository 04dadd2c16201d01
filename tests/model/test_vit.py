"""Vision Transformers: patches, positions, rates of dropout, the class token, weights of another grid."""

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from timm.layers import DropPath
from torch import Tensor, nn

from reid.contract import Contract
from reid.errors import SpecError
from reid.model.backbones import is_convolutional
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import Embedder, build_embedder
from reid.model.vit import grid_size, is_vit
from reid.model.weights import WeightsReport, load_pretrained
from reid.spec import names
from tests.networks import network_settings
from tests.reference_vit import batch_norm, vit_tokens


def build(seed: int = 0, **changes: Any) -> Embedder:
    """test_vit: 6 blocks, 64 wide, 2 heads, patches of 16."""
    torch.manual_seed(seed)
    settings = {"backbone": "timm/test_vit", "pooling": "class", "feat_dim": None} | changes
    return build_embedder(**network_settings(**settings)).eval()


def images(height: int = 64, width: int = 32) -> Tensor:
    return torch.randn(2, 3, height, width, generator=torch.Generator().manual_seed(1))


def load(network: Embedder, path: Path, choice: str = "imagenet") -> WeightsReport:
    report = load_pretrained(network, path, choice=choice, min_share=0.9)
    assert report is not None
    return report


# A vertical step of 12 in 64 pixels: patches begin at 0, 12, 24, 36, 48. 70 x 35: a rest of 6 and 3 pixels is cut off.
@pytest.mark.parametrize(
    ("size", "stride", "grid"),
    [
        ((64, 32), 16, (4, 2)),
        ((64, 32), 12, (5, 2)),
        ((64, 32), 8, (7, 3)),
        ((70, 35), 16, (4, 2)),
        ((40, 28), 12, (3, 2)),
    ],
)
def test_the_class_token_of_any_size_and_stride_is_the_formulas(
    size: tuple[int, int], stride: int, grid: tuple[int, int]
) -> None:
    network = build(height=size[0], width=size[1], stride_size=[stride, stride])
    nn.init.normal_(network.base.pos_embed)  # type: ignore[arg-type]
    nn.init.normal_(network.base.cls_token)  # type: ignore[arg-type]
    assert network.base.pos_embed.shape == (1, 1 + grid[0] * grid[1], 64)  # type: ignore[union-attr]
    assert grid_size(size, patch=(16, 16), stride=(stride, stride)) == grid
    state = network.state_dict()
    expected = vit_tokens(images(*size), state, prefix="base.", heads=2, stride=stride)[:, 0]
    with torch.inference_mode():
        torch.testing.assert_close(network.features(images(*size)), expected, rtol=1e-4, atol=1e-5)
        after = batch_norm(expected, state, "bottleneck")
        torch.testing.assert_close(network(images(*size)), after, rtol=1e-4, atol=1e-5)


def test_two_strides_and_one_above_the_patch() -> None:
    assert build(stride_size=[8, 32]).base.pos_embed.shape[1] == 1 + 7 * 2  # type: ignore[union-attr, index]


def test_an_image_smaller_than_a_patch_is_an_error() -> None:
    with pytest.raises(SpecError) as error:
        build(width=15)
    assert str(error.value) == "model.input_height, model.input_width: 64 x 15\n  want: at least one patch of 16 x 16"


def test_the_rates_reach_every_block_and_depth_grows_linearly() -> None:
    network = build(drop_path=0.5, drop_out=0.2, att_drop_rate=0.3)
    blocks = list(network.base.blocks)  # type: ignore[arg-type]
    assert isinstance(blocks[0].drop_path1, nn.Identity)
    for number, block in enumerate(blocks[1:], start=1):
        assert isinstance(block.drop_path1, DropPath)
        assert [block.drop_path1.drop_prob, block.drop_path2.drop_prob] == pytest.approx([number / 10] * 2)
    rates = {name: module.p for name, module in network.base.named_modules() if isinstance(module, nn.Dropout)}
    assert {rate for name, rate in rates.items() if name.endswith("attn_drop")} == {0.3}
    assert {rate for name, rate in rates.items() if not name.endswith(("attn_drop", "head_drop"))} == {0.2}
    assert rates["pos_drop"] == 0.2
    torch.testing.assert_close(network(images()), build(drop_path=0.0)(images()))  # in training only


def test_with_patches_side_by_side_the_network_is_timms_own() -> None:
    torch.manual_seed(0)
    timms = timm.create_model("vit_tiny_patch16_224", img_size=(64, 32), num_classes=0).eval()
    network = build(backbone="vit_tiny_patch16")
    assert all(torch.equal(network.base.get_parameter(name), tensor) for name, tensor in timms.named_parameters())
    with torch.inference_mode():
        assert torch.equal(network.features(images()), timms(images()))


@pytest.mark.parametrize("backbone", ["vit_tiny_patch16", "timm/test_vit", "timm/deit_tiny_patch16_224"])
def test_a_vit_is_told_by_its_name_as_by_its_class(backbone: str) -> None:
    network = build(backbone=backbone)
    assert is_vit(network.base)
    assert names.is_vit(backbone)
    assert not is_convolutional(network.base)


@pytest.mark.parametrize("backbone", ["timm/test_vit_relpos", "timm/test_resnet"])
def test_what_is_no_vit_is_told_by_its_name_and_warned_about(backbone: str, caplog: pytest.LogCaptureFixture) -> None:
    network = build(backbone=backbone, pooling="mean", stride_size=[12, 12])
    assert not is_vit(network.base)
    assert not names.is_vit(backbone)
    assert caplog.messages == [f"model.stride_size: [12, 12] has no effect: {backbone} has no patches of a ViT"]


def test_positions_of_a_square_grid_are_resized_bilinearly_as_in_transreid(tmp_path: Path) -> None:
    # the positions of 3 x 3 patches, of 10 x their row: resized to 4 rows, centres lie at (i + 0.5) 3 / 4 - 0.5 rows
    state = {name: tensor.clone() for name, tensor in build(1).base.state_dict().items()}
    grid = torch.tensor([0.0, 10.0, 20.0]).repeat_interleave(3)[None, :, None].expand(1, 9, 64)
    state["pos_embed"] = torch.cat([torch.full((1, 1, 64), 7.0), grid], dim=1)
    torch.save({"model": state | {"head.weight": torch.ones(3, 64)}}, tmp_path / "vit.pth")
    network = build(2)
    report = load(network, tmp_path / "vit.pth")
    assert (report.reshaped, report.share) == (("base.pos_embed",), 1.0)
    found = network.base.pos_embed[0, :, 5].tolist()  # type: ignore[index, union-attr]
    rows = [0.0, 6.25, 13.75, 20.0]  # -0.125 is cut to 0, 0.625, 1.375, 2.125 cut to 2
    assert found == pytest.approx([7.0, *(row for row in rows for _ in range(2))])


@pytest.mark.parametrize(("count", "rows"), [(128, 16), (210, 21), (4, 2), (192, 24)])
def test_a_grid_that_is_not_square_is_the_one_nearest_to_the_image(tmp_path: Path, count: int, rows: int) -> None:
    state = {name: tensor.clone() for name, tensor in build(1).base.state_dict().items()}
    ramp = torch.arange(rows).repeat_interleave(count // rows).float()
    state["pos_embed"] = torch.cat([torch.zeros(1), ramp])[None, :, None].expand(1, -1, 64)
    torch.save(state, tmp_path / "vit.pth")
    network = build(2, height=256, width=128, stride_size=[16, 16])
    load(network, tmp_path / "vit.pth")
    found = network.base.pos_embed[0, 1:, 0].view(16, 8)  # type: ignore[index, union-attr]
    assert torch.equal(found, found[:, :1].expand(-1, 8))  # along a row nothing changes
    assert bool((found[:, 0].diff() >= 0).all())
    assert found[[0, -1], 0].tolist() == pytest.approx([0, rows - 1], abs=0.5)


def test_our_own_weights_are_resized_from_the_grid_that_they_say(tmp_path: Path) -> None:
    # 16 patches of a 128 x 32 image are 8 rows of 2, though 16 is a square
    source, path = build(1, height=128), tmp_path / "m.pth"
    ramp = torch.arange(8).repeat_interleave(2).float()
    with torch.no_grad():
        source.base.pos_embed[:, 1:] = ramp[None, :, None]  # type: ignore[index, operator]
    contract = Contract(height=128, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=64)
    save_model(path, source, contract=contract, persons=range(5))
    network = build(2)
    load(network, path, "self")
    # 4 rows of 8: each the mean of rows 2 i and 2 i + 1 (bilinear, at 0.5, 2.5, ...)
    found = network.base.pos_embed[0, 1:, 0].tolist()  # type: ignore[index, union-attr]
    assert found == pytest.approx([0.5, 0.5, 2.5, 2.5, 4.5, 4.5, 6.5, 6.5])


def test_an_older_checkpoint_is_built_as_timm_builds_it(tmp_path: Path) -> None:
    torch.manual_seed(0)
    older = build(pooling="mean", stride_size=None)
    assert isinstance(older.base.blocks[5].drop_path1, nn.Identity)  # type: ignore[index, union-attr]
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=64)
    save_model(tmp_path / "m.pth", older, contract=contract, persons=range(5))
    content = torch.load(tmp_path / "m.pth", weights_only=True)
    for name in ("pooling", "stride_size"):
        del content["reid"]["model"][name]
    torch.save(content, tmp_path / "m.pth")
    loaded = load_model(tmp_path / "m.pth").network
    assert torch.equal(loaded(images()), older(images()))
    mean = older.base.forward_features(images())[:, 1:].mean(dim=1)  # type: ignore[operator]
    torch.testing.assert_close(loaded.features(images()), mean)
