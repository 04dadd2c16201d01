"""Backbones by name: strides, stems, layouts, errors."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from torch import nn

from reid.errors import SpecError
from reid.model.backbones import BACKBONES, OWN, build_backbone, feature_map, timm_name
from tests.networks import network_settings


def build(**changes: Any) -> nn.Module:
    names = (
        "backbone last_stride stem_relu stem_pool input_channels height width drop_path drop_out att_drop_rate "
        "semantic_weight stride_size"
    )
    settings = network_settings(**changes)
    return build_backbone(**{name: settings[name] for name in names.split()})


def run(base: nn.Module, channels: int = 3) -> torch.Tensor:
    with torch.inference_mode():
        return feature_map(base.eval(), torch.zeros(2, channels, 64, 32))


@pytest.mark.parametrize(
    "backbone",
    ["resnet_18", "resnet_50", "timm/test_resnet", "timm/resnet26d", "timm/resnetblur18", "timm/ecaresnet26t"],
)
def test_last_stride_1_makes_the_map_twice_as_fine_and_2_is_timms_own(backbone: str) -> None:
    coarse, fine = build(backbone=backbone, last_stride=2), build(backbone=backbone, last_stride=1)
    assert run(coarse).shape[2:] == (2, 1)
    assert run(fine).shape[2:] == (4, 2)
    assert coarse.state_dict().keys() == fine.state_dict().keys()


SPECS = sorted((Path(__file__).parents[2] / "pipelines" / "specs").glob("*.yaml"))
OF_SPECS = [yaml.safe_load(path.read_text(encoding="utf-8"))["model"]["backbone"] for path in SPECS]


def convert_as_timm(module: nn.Module) -> nn.Module:
    return timm.layers.convert_sync_batchnorm(module)  # type: ignore[no-any-return]


def convert_as_torch(module: nn.Module) -> nn.Module:
    return nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-any-return]


@pytest.mark.parametrize("convert", [convert_as_timm, convert_as_torch])
@pytest.mark.parametrize("backbone", sorted({*BACKBONES, *OWN, *OF_SPECS}))
def test_the_batch_norm_of_every_backbone_can_be_synchronised(
    backbone: str, convert: Callable[[nn.Module], nn.Module]
) -> None:
    with torch.device("meta"):  # the modules and their shapes are enough
        base = build(backbone=backbone, height=224, width=224)
    names = [child for module in base.modules() for child, _ in module.named_children()]
    assert all(names)
    parameters = sum(parameter.numel() for parameter in base.parameters())
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in base.modules())
    assert norms > 0 or backbone.startswith(("swin_", "vit_"))
    converted = convert(base)
    assert sum(isinstance(module, nn.SyncBatchNorm) for module in converted.modules()) == norms
    assert not [name for name, module in converted.named_modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(parameter.numel() for parameter in converted.parameters()) == parameters


@pytest.mark.parametrize(
    ("backbone", "strided"),
    [
        ("resnet_18", ["conv1", "downsample.0"]),
        ("resnet_50", ["conv2", "downsample.0"]),
        ("resnet_50_ibn_a", ["conv2", "downsample.0"]),
    ],
)
def test_the_last_stride_lies_in_the_first_block_and_its_shortcut(backbone: str, strided: list[str]) -> None:
    for last_stride in (1, 2):
        base = build(backbone=backbone, last_stride=last_stride)
        first, *others = base.layer4  # type: ignore[misc]
        for name, module in first.named_modules():
            if isinstance(module, nn.Conv2d):
                assert module.stride == ((last_stride,) * 2 if name in strided else (1, 1)), name
                assert module.dilation == (1, 1), name
        assert {m.stride for block in others for m in block.modules() if isinstance(m, nn.Conv2d)} == {(1, 1)}


def test_a_last_stride_of_3_is_an_error() -> None:
    with pytest.raises(SpecError) as error:
        build(last_stride=3)
    assert str(error.value) == "model.last_stride: found 3\n  want: 1 or 2"


def test_without_the_stem_relu_negative_values_pass_the_stem() -> None:
    for stem_relu in (True, False):
        base = build(backbone="resnet_18", stem_relu=stem_relu)
        stem = base.act1(torch.tensor([-1.0, 2.0]))  # type: ignore[operator]
        assert stem.tolist() == ([0.0, 2.0] if stem_relu else [-1.0, 2.0])


def test_the_stems_pool_begins_a_pixel_before_the_map_or_in_its_corner() -> None:
    # of a ramp 0..7 along a row: windows of three begin at -1, 1, 3, 5 if padded, else at 0, 2, 4, 6 (the last is cut)
    ramp = torch.arange(8.0).repeat(8, 1)[None, None]
    for stem_pool, row in (("padded", [1.0, 3.0, 5.0, 7.0]), ("ceil", [2.0, 4.0, 6.0, 7.0])):
        pooled = build(backbone="resnet_18", stem_pool=stem_pool).maxpool(ramp)  # type: ignore[operator]
        assert pooled.shape == (1, 1, 4, 4)
        assert pooled[0, 0, 0].tolist() == row


@pytest.mark.parametrize("backbone", ["resnet_18", "timm/test_resnet", "timm/test_vit"])
def test_one_input_channel_is_a_network_for_grey_images(backbone: str) -> None:
    assert run(build(backbone=backbone, input_channels=1), channels=1).ndim == 4


@pytest.mark.parametrize(
    ("backbone", "shape"),
    [
        ("timm/test_resnet", (96, 4, 2)),
        ("timm/test_vit", (64, 8, 1)),  # 64 / 16 x 32 / 16 tokens, the class token left out
        ("timm/test_efficientnet", (256, 2, 1)),
        ("timm/mambaout_femto", (288, 2, 1)),  # channels last inside
        ("timm/swinv2_cr_tiny_224", (768, 2, 1)),
    ],
)
def test_any_backbone_of_timm_gives_a_map_of_its_width(backbone: str, shape: tuple[int, int, int]) -> None:
    base = build(backbone=backbone)
    assert base.num_features == shape[0]
    assert run(base).shape == (2, *shape)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_every_name_of_the_seed_is_an_architecture_of_timm_with_weights_on_its_hub(backbone: str) -> None:
    name = timm_name(backbone)
    assert timm.is_model(name)
    assert timm.get_pretrained_cfg(name, allow_unregistered=False).hf_hub_id == f"timm/{name}"


@pytest.mark.parametrize("changes", [{"last_stride": 2}, {"stem_relu": False}, {"stem_pool": "ceil"}])
def test_a_resnets_option_on_another_backbone_is_warned_about(
    changes: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        build(backbone="timm/test_vit", **changes)
    found = {"last_stride": "model.last_stride: 2 has no effect: timm/test_vit has no ResNet stage"}
    found["stem_relu"] = "model.stem_relu: off has no effect: timm/test_vit has no ResNet stem"
    found["stem_pool"] = "model.stem_pool: ceil has no effect: timm/test_vit has no max pooling in its stem"
    assert caplog.messages == [found[next(iter(changes))]]


def test_the_defaults_on_another_backbone_are_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        build(backbone="timm/test_vit")
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("backbone", "nearest"),
    [
        ("resnet_51", "; did you mean resnet_50 or resnet_18 or resnet_152?"),
        ("test_resnet", "; did you mean timm/test_resnet or "),
        ("timm/test_resnat", "; did you mean timm/test_resnet or "),
        ("xyz", ""),
    ],
)
def test_an_unknown_backbone_is_an_error_with_the_nearest_names(backbone: str, nearest: str) -> None:
    with pytest.raises(SpecError) as error:
        build(backbone=backbone)
    assert str(error.value).startswith(f"model.backbone: no backbone {backbone!r}{nearest}")
    assert str(error.value).endswith(
        "\n  want: one of resnet_18, resnet_34, resnet_50, resnet_101, resnet_152, swin_tiny_patch4_window7_224,"
        " swin_small_patch4_window7_224, swin_base_patch4_window7_224, vit_tiny_patch16, vit_small_patch16,"
        " vit_base_patch16, resnet_18_ibn_a, resnet_34_ibn_a, resnet_50_ibn_a, resnet_101_ibn_a, osnet_x1_0,"
        " osnet_x0_75, osnet_x0_5, osnet_x0_25, osnet_ibn_x1_0, osnet_ain_x1_0, osnet_ain_x0_75, osnet_ain_x0_5,"
        " osnet_ain_x0_25, or timm/<name> for any model of timm"
    )


def test_an_unknown_weights_tag_of_timm_is_an_error() -> None:
    with pytest.raises(SpecError) as error:
        build(backbone="timm/test_resnet.nowhere")
    assert str(error.value) == (
        "model.backbone: timm/test_resnet.nowhere: Invalid pretrained tag (nowhere) for test_resnet."
    )
