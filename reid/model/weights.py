"""Loads pretrained weights into a network from any of the usual files, safely, and reports which tensors fitted."""

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from timm.layers.activations import QuickGELU
from torch import Tensor
from torch.nn import functional as F

from reid.errors import ArtifactError, SpecError
from reid.model.embedder import Embedder
from reid.model.hub import imagenet_weights
from reid.model.osnet import OSNet
from reid.model.safe_files import read_file
from reid.model.sources import (
    NOT_WEIGHTS,
    drops_stem_relu,
    in_our_names,
    odd_shapes_are_errors,
    source_kind,
    tensors_of,
)
from reid.model.vit import grid_size, is_vit, resized_positions
from reid.model.vit_sources import CLIP_REID

logger = logging.getLogger(__name__)

CLIP_BACKBONE = "timm/vit_base_patch16_clip_quickgelu_224"
"""The backbone that CLIP-ReID fine-tunes."""


@dataclass(frozen=True)
class WeightsReport:
    """Which tensors of a file went into the network; names are the network's, but in `unexpected` the file's."""

    matched: tuple[str, ...]
    """Tensors that were copied."""
    missing: tuple[str, ...]
    """Tensors that keep their random values; both shapes are named if the file has the tensor in another shape."""
    unexpected: tuple[str, ...]
    """Tensors of the file that the network does not have."""
    reshaped: tuple[str, ...]
    """Tensors of `matched` that were summed over colours or interpolated to fit."""
    source_kind: str
    """Whose weights they are, in the words of sources.source_kind."""
    share: float
    """The share of the backbone's tensors that were copied, 0..1."""

    def lines(self) -> list[str]:
        """The report in words, for the log and the train stage's page."""
        counts = f"matched {len(self.matched)} ({len(self.reshaped)} reshaped), missing {len(self.missing)}"
        lines = [
            f"weights of {self.source_kind}: {counts}, unexpected {len(self.unexpected)}; backbone {self.share:.0%}"
        ]
        for word, names in (
            ("reshaped", self.reshaped),
            ("missing", self.missing),
            ("unexpected", self.unexpected),
        ):
            if names:
                more = f" and {len(names) - 5} more" if len(names) > 5 else ""
                lines.append(f"  {word}: {', '.join(names[:5])}{more}")
        return lines


def resolve_stem_relu(setting: str | bool, *, choice: str, path: Path | None) -> bool:
    """model.stem_relu as a bool; auto is what the weights were trained with, False for TAO and strong baseline."""
    if isinstance(setting, bool):
        return setting
    if choice == "" or path is None:
        return True
    content = read_file(path)
    return not drops_stem_relu(content, tensors_of(path, content))


def load_pretrained(embedder: Embedder, path: Path | None, *, choice: str, min_share: float) -> WeightsReport | None:
    """Copies the weights at `path` that fit into `embedder`, and returns the report; None for choice "" (random).

    With choice imagenet only the backbone is loaded, with path None from timm's hub; with self the head too. Raises
    ArtifactError if the file is missing, damaged or encrypted, or needs code; if its blocks are of another kind; and if
    less than `min_share` of the backbone's tensors fit. Raises SpecError for an unknown choice, or self without a path.
    """
    if choice not in ("imagenet", "self", ""):
        raise SpecError(f"model.pretrain_choice: found {choice!r}\n  want: imagenet, self or '' (random weights)")
    if choice == "":
        if path is not None:
            logger.warning("model.pretrained_model_path: %s is not read, because model.pretrain_choice is ''", path)
        return None
    backbone = str(embedder.settings["backbone"])
    if path is None:
        if choice == "self":
            raise SpecError("model.pretrained_model_path: null\n  want: a file, because model.pretrain_choice is self")
        path = imagenet_weights(backbone)
    content = read_file(path)
    tensors = tensors_of(path, content)
    with odd_shapes_are_errors(path):
        named = in_our_names(tensors)
    if choice == "imagenet":
        # an OSNet's layer behind the pooling was trained on ImageNet too
        of_imagenet = ("base.", "reduction.") if isinstance(embedder.base, OSNet) else ("base.",)
        named = {ours: entry for ours, entry in named.items() if ours.startswith(of_imagenet)}
    _refuse_bottlenecks(path, backbone, named, embedder.state_dict())
    _refuse_other_tokens(path, named)
    require_quick_gelu(path, embedder, source_kind(content, tensors))
    with odd_shapes_are_errors(path):
        source, grid = source_kind(content, tensors), _own_grid(content, named)
        report = copy_weights(embedder, named, source=source, tensors=tensors, grid=grid)
    lost = [name for name in report.missing if name.startswith("base.pos_embed (")]
    if lost and is_vit(embedder.base):
        raise ArtifactError(f"{path}: its positions fit no grid of patches: {lost[0]}\n  want: weights of a plain ViT")
    if report.share < min_share:
        matched = sum(name.startswith("base.") for name in report.matched)
        missing = [name for name in report.missing if name.startswith("base.")]
        raise ArtifactError(
            f"{path}: matched {matched} of the {matched + len(missing)} tensors of backbone {backbone}"
            f" (weights of {report.source_kind})\n"
            f"  want: at least {min_share:.0%}, found {report.share:.0%}\n"
            f"  first missing: {', '.join(missing[:3])}\n"
            f"  first unexpected: {', '.join(report.unexpected[:3]) or 'none'}"
        )
    for line in report.lines():
        logger.info("%s", line)
    return report


def _refuse_bottlenecks(path: Path, backbone: str, named: Collection[str], wanted: Collection[str]) -> None:
    """Raises ArtifactError if the file has three convolutions a block and the network two: TAO's ResNet-18 and -34."""
    third = "base.layer1.0.conv3.weight"
    if third in named and third not in wanted and "base.layer1.0.conv2.weight" in wanted:
        raise ArtifactError(
            f"{path}: its blocks are bottlenecks of three convolutions, those of {backbone} are basic ones of two\n"
            f"  TAO builds ResNet-18 and -34 of bottlenecks; want: weights of torchvision's {backbone}"
        )


def _refuse_other_tokens(path: Path, named: Collection[str]) -> None:
    """Raises ArtifactError for a ViT whose tokens are made in another way than here."""
    others = {"base.part_token1": "part tokens (PASS)", "base.patch_embed.conv.0.weight": "a convolutional stem (ICS)"}
    for name, part in others.items():
        if name in named:
            raise ArtifactError(
                f"{path}: a ViT with {part}, which no network here has\n"
                "  want: weights of a ViT with a class token and patches"
            )


def require_quick_gelu(path: Path, embedder: Embedder, source: str) -> None:
    """Raises ArtifactError for weights of CLIP in a ViT that has another activation, which its tensors do not show."""
    if source == CLIP_REID and not any(isinstance(module, QuickGELU) for module in embedder.base.modules()):
        raise ArtifactError(
            f"{path}: weights of {source}, whose activation is QuickGELU\n"
            f"  found: model.backbone={embedder.settings['backbone']} in the spec\n"
            f"  want:  model.backbone={CLIP_BACKBONE}"
        )


def _own_grid(content: Any, named: Mapping[str, tuple[str, Tensor]]) -> tuple[int, int] | None:
    """Rows and columns of a ViT's patches, if the file is this project's and so says how its images are cut."""
    settings = content.get("reid", {}).get("model", {}) if isinstance(content, dict) else {}
    patches = named.get("base.patch_embed.proj.weight")
    if not settings.get("stride_size") or patches is None or not {"height", "width"} <= set(settings):
        return None
    patch = patches[1].shape[2:]
    stride = [min(step, side) for step, side in zip(settings["stride_size"], patch, strict=True)]
    return grid_size((settings["height"], settings["width"]), patch=patch, stride=stride)


def copy_weights(
    embedder: Embedder,
    named: Mapping[str, tuple[str, Tensor]],
    *,
    source: str,
    tensors: Collection[str],
    grid: tuple[int, int] | None = None,
) -> WeightsReport:
    """Copies every tensor that fits, unchanged or reshaped, and returns the report; `grid` is of the file's patches."""
    matched, missing, reshaped, used = [], [], [], set()
    wanted = {name: tensor for name, tensor in embedder.state_dict().items() if not name.endswith(NOT_WEIGHTS)}
    for name, target in wanted.items():
        if name not in named:
            missing.append(name)
            continue
        theirs, found = named[name]
        used.add(theirs)
        fitted = found if found.shape == target.shape else _reshaped(embedder, name, found, target, grid)
        if fitted is None:
            missing.append(f"{name} (found {tuple(found.shape)}, want {tuple(target.shape)})")
            continue
        if fitted is not found:
            reshaped.append(name)
        with torch.no_grad():
            target.copy_(fitted)
        matched.append(name)
    of_backbone = sum(name.startswith("base.") for name in wanted)
    return WeightsReport(
        matched=tuple(matched),
        missing=tuple(missing),
        unexpected=tuple(name for name in tensors if name not in used and not name.endswith(NOT_WEIGHTS)),
        reshaped=tuple(reshaped),
        source_kind=source,
        share=sum(name.startswith("base.") for name in matched) / of_backbone,
    )


def _reshaped(
    embedder: Embedder, name: str, found: Tensor, target: Tensor, grid: tuple[int, int] | None
) -> Tensor | None:
    """`found` in the shape of `target`: the stem for other colours, Swin's tables for other windows, a ViT's positions.

    None if it cannot be.
    """
    if name == "base.pos_embed" and is_vit(embedder.base):
        return resized_positions(found, embedder.base, old_grid=grid)  # type: ignore[arg-type]
    stem = embedder.base.pretrained_cfg["first_conv"]  # type: ignore[index]
    if name == f"base.{stem}.weight" and found.shape[0] == target.shape[0] and found.shape[2:] == target.shape[2:]:
        # in a grey picture R = G = B, so the summed kernel gives what the colour kernel gives
        if (found.shape[1], target.shape[1]) == (3, 1):
            return found.sum(dim=1, keepdim=True)
        if (found.shape[1], target.shape[1]) == (1, 3):
            return found.expand(-1, 3, -1, -1) / 3
    table = ".relative_position_bias_table"
    square = round(found.shape[0] ** 0.5) ** 2 == found.shape[0]
    if name.endswith(table) and found.shape[1] == target.shape[1] and square:
        side, heads = round(found.shape[0] ** 0.5), found.shape[1]
        rows, columns = embedder.get_submodule(name.removesuffix(table)).window_size  # type: ignore[misc]
        size = (2 * rows - 1, 2 * columns - 1)
        tables = found.float().T.reshape(1, heads, side, side)
        return F.interpolate(tables, size=size, mode="bicubic", align_corners=False).reshape(heads, -1).T
    return None
