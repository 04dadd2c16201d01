"""Builds backbones by name, through timm and with random weights: image in, map of features or class token out.

Shapes: B images, C channels, H height, W width of the images; h, w of the feature map.
"""

import difflib
import logging
from collections.abc import Sequence
from typing import Any

import timm
from timm.models.resnet import ResNet
from timm.models.swin_transformer import SwinTransformer
from torch import Tensor, nn

from reid.errors import SpecError
from reid.model.ibn import IBN_RESNETS, follow_ibn_a
from reid.model.osnet import OSNETS, OSNet
from reid.model.swin import follow_tao
from reid.model.vit import is_vit, set_drop_rates, set_patches

logger = logging.getLogger(__name__)

BACKBONES = {
    "resnet_18": "resnet18.tv_in1k",
    "resnet_34": "resnet34.tv_in1k",
    "resnet_50": "resnet50.tv_in1k",
    "resnet_101": "resnet101.tv_in1k",
    "resnet_152": "resnet152.tv_in1k",
    "swin_tiny_patch4_window7_224": "swin_tiny_patch4_window7_224.ms_in1k",
    "swin_small_patch4_window7_224": "swin_small_patch4_window7_224.ms_in1k",
    "swin_base_patch4_window7_224": "swin_base_patch4_window7_224.ms_in1k",
    "vit_tiny_patch16": "vit_tiny_patch16_224.augreg_in21k_ft_in1k",
    "vit_small_patch16": "vit_small_patch16_224.augreg_in21k_ft_in1k",
    "vit_base_patch16": "vit_base_patch16_224.orig_in21k_ft_in1k",  # TransReID's
}
"""The spec's name -> timm's architecture and the ImageNet weights for it, of torchvision, Microsoft and Google."""

OWN = (*IBN_RESNETS, *OSNETS)
"""The spec's names of networks that timm does not have."""

ANY_TIMM = "timm/"
"""The beginning of a spec's name for any model of timm."""


def timm_name(backbone: str) -> str:
    """timm's name of the spec's backbone, or an OWN name; raises SpecError with the nearest names if it is neither."""
    if backbone in OWN:
        return backbone
    name = BACKBONES.get(backbone, backbone.removeprefix(ANY_TIMM))
    if backbone not in BACKBONES and not (backbone.startswith(ANY_TIMM) and timm.is_model(name)):
        known = [*BACKBONES, *OWN, *(ANY_TIMM + model for model in timm.list_models())]
        close = difflib.get_close_matches(backbone, known, n=3)
        nearest = f"; did you mean {' or '.join(close)}?" if close else ""
        raise SpecError(
            f"model.backbone: no backbone {backbone!r}{nearest}\n"
            f"  want: one of {', '.join((*BACKBONES, *OWN))}, or timm/<name> for any model of timm"
        )
    try:
        timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # timm knows the model but not the weights named behind its dot
        raise SpecError(f"model.backbone: {backbone}: {error}") from None
    return name


def build_backbone(
    backbone: str,
    *,
    last_stride: int,
    stem_relu: bool,
    stem_pool: str,
    input_channels: int,
    height: int,
    width: int,
    drop_path: float,
    drop_out: float,
    att_drop_rate: float,
    semantic_weight: float,
    stride_size: Sequence[int] | None,
) -> nn.Module:
    """The module without a classifier, random weights; `feature_map` runs it and `num_features` is its width.

    drop_path, drop_out and att_drop_rate are for Swin and ViT only, semantic_weight for Swin, stride_size for ViT,
    last_stride, stem_relu and stem_pool for ResNets. With stride_size None a ViT is as timm builds it, without the
    three rates, as in older checkpoints. A value that another backbone cannot follow gives a warning. Raises SpecError
    for an unknown backbone.
    """
    name = IBN_RESNETS.get(backbone) or timm_name(backbone)
    _require_room(backbone, height, width)
    options: dict[str, Any] = {}
    known = timm.get_pretrained_cfg(name)
    if known is not None and known.fixed_input_size:
        options["img_size"] = (height, width)
    if name.startswith("swin_"):
        options |= {"drop_path_rate": drop_path, "proj_drop_rate": drop_out, "attn_drop_rate": att_drop_rate}
        options["always_partition"] = True
    base: nn.Module = (
        OSNet(backbone, input_channels=input_channels)
        if backbone in OSNETS
        else timm.create_model(name, pretrained=False, num_classes=0, in_chans=input_channels, **options)
    )
    if isinstance(base, SwinTransformer):
        follow_tao(base, semantic_weight=semantic_weight)
    if backbone in IBN_RESNETS:
        follow_ibn_a(base)
    if is_vit(base) and stride_size is not None:
        set_patches(base, height=height, width=width, stride_size=stride_size)
        set_drop_rates(base, drop_path=drop_path, drop_out=drop_out, att_drop_rate=att_drop_rate)
    if isinstance(base, ResNet):
        set_last_stride(base, last_stride)
        if not stem_relu:
            base.act1 = nn.Identity()
    if stem_pool == "ceil" and isinstance(getattr(base, "maxpool", None), nn.MaxPool2d):
        base.maxpool = nn.MaxPool2d(kernel_size=3, stride=2, ceil_mode=True)
    _warn_of_no_effect(
        base, backbone, last_stride=last_stride, stem_relu=stem_relu, stem_pool=stem_pool, stride_size=stride_size
    )
    return base


def _warn_of_no_effect(
    base: nn.Module,
    backbone: str,
    *,
    last_stride: int,
    stem_relu: bool,
    stem_pool: str,
    stride_size: Sequence[int] | None,
) -> None:
    """Logs a warning for each value that the backbone cannot follow."""
    resnet = isinstance(base, ResNet)
    if not resnet and last_stride != 1:
        logger.warning("model.last_stride: %d has no effect: %s has no ResNet stage", last_stride, backbone)
    if not resnet and not stem_relu:
        logger.warning("model.stem_relu: off has no effect: %s has no ResNet stem", backbone)
    if stem_pool == "ceil" and not isinstance(getattr(base, "maxpool", None), nn.MaxPool2d):
        logger.warning("model.stem_pool: ceil has no effect: %s has no max pooling in its stem", backbone)
    if stride_size is not None and list(stride_size) != [16, 16] and not is_vit(base):
        logger.warning("model.stride_size: %s has no effect: %s has no patches of a ViT", list(stride_size), backbone)


def _require_room(backbone: str, height: int, width: int) -> None:
    """Raises SpecError if an image is so small that a map of an OWN network has no pixel, or one with no deviation."""
    least = 16 if backbone in OSNETS else 1
    kind = OSNETS[backbone][0] if backbone in OSNETS else "plain"
    longest = 32 if kind != "plain" else 17 if backbone in IBN_RESNETS else 1
    if min(height, width) < least or max(height, width) < longest:
        raise SpecError(
            f"model.input_height: {height} and model.input_width: {width} are too small for {backbone}\n"
            f"  want: at least {least} each, and {max(least, longest)} the larger"
        )


def set_last_stride(base: ResNet, last_stride: int) -> None:
    """Sets the stride of the last stage in place: 2 as in the ImageNet network, or 1 for a map twice as fine.

    A stride, not a dilation (timm's output_stride=16): the 3 x 3 kernels keep their reach, as in Luo et al. 2019,
    section 3.6. With 1, the average pooling and blur pooling of some ResNets' last stage are removed.
    """
    if last_stride not in (1, 2):
        raise SpecError(f"model.last_stride: found {last_stride}\n  want: 1 or 2")
    if last_stride == 2:
        return
    first_block = base.layer4[0]
    for name, module in list(first_block.named_modules()):
        stride = getattr(module, "stride", 1)
        if stride in (1, (1,), (1, 1)):
            continue
        if isinstance(module, nn.Conv2d):
            module.stride = (1, 1)
        elif any(
            True for _ in module.children()
        ):  # the block itself, and what else only notes its convolutions' stride
            module.stride = 1
        else:
            parent, _, child = name.rpartition(".")
            setattr(first_block.get_submodule(parent), child, nn.Identity())


def is_swin(base: nn.Module) -> bool:
    """Whether it is a Swin Transformer; TAO builds its head in another way than a ResNet's."""
    return isinstance(base, SwinTransformer)


def is_convolutional(base: nn.Module) -> bool:
    """Whether channels_last is the faster memory format: true unless the network is a transformer."""
    return not hasattr(base, "patch_embed")


def has_class_token(base: nn.Module) -> bool:
    """Whether the network has a token that gathers the whole image, before its other tokens."""
    return getattr(base, "cls_token", None) is not None and int(getattr(base, "num_prefix_tokens", 0)) > 0


def class_token(base: nn.Module, images: Tensor) -> Tensor:
    """images (B, C, H, W) -> the class token behind the last layer (B, D), of a network that has one."""
    tokens: Tensor = base.forward_features(images)  # type: ignore[operator]
    return tokens[:, 0]


def feature_map(base: nn.Module, images: Tensor) -> Tensor:
    """images (B, C, H, W) -> (B, D, h, w), whatever layout the backbone has; tokens become (B, D, tokens, 1)."""
    maps: Tensor = base.forward_features(images)  # type: ignore[operator]
    if maps.ndim == 3:  # (B, tokens, D), the class token and registers first
        prefix = int(getattr(base, "num_prefix_tokens", 0))
        return maps[:, prefix:].transpose(1, 2).unsqueeze(3)
    if getattr(base, "output_fmt", "NCHW") == "NHWC":
        return maps.permute(0, 3, 1, 2)
    return maps
