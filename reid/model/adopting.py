"""Loads another project's checkpoint into a network of this project: every tensor fits, or an error says what differs.

The caller says what a file cannot show: strides, the stem, on which side of the neck the embedding is, and how images
are prepared.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from reid.errors import ArtifactError
from reid.model.backbones import has_class_token, timm_name
from reid.model.checkpoint import without_memory
from reid.model.embedder import Embedder, build_embedder
from reid.model.ibn import IBN_RESNETS
from reid.model.osnet import OSNETS
from reid.model.safe_files import read_file
from reid.model.sources import OURS, drops_stem_relu, in_our_names, odd_shapes_are_errors, source_kind, tensors_of
from reid.model.vit import grid_size, is_vit, positions_in_front
from reid.model.vit_sources import CLIP_REID, DINO, TRANSREID
from reid.model.weights import CLIP_BACKBONE, WeightsReport, copy_weights, require_quick_gelu

NO_PART_OF_THE_EMBEDDING = re.compile(
    r"(.*\.)?centers|classifier\..*"
    # TAO's and SOLIDER's Swin: for other uses of its first stages, and for a stage behind the last
    r"|base\.(norm[012]|layers\.4\.downsample\.semantic_\w+)\..*"
    # the classifier of ImageNet's classes
    r"|base\.fc\.(weight|bias)"
    # fast-reid's preprocessing
    r"|base\.pixel_(mean|std)"
    # a ViT's classifier of ImageNet, CLIP's text encoder, ...
    r"|aside\..*"
)
"""Names, in this project, of tensors that a file may but need not have."""

PARTS = {
    r"layer\d\.\d+\.IN\.": "instance normalisation behind its blocks (IBN-b)",
    r"(^|\.)NL_\d": "non-local blocks",
    r"\.se(_module)?\.": "squeeze and excitation",
    r"part_token": "part tokens (PASS)",
    r"patch_embed\.conv\.": "a convolutional stem (ICS of TransReID-SSL)",
    r"(^|\.)b[12]\.\d": "the jigsaw patch module (JPM of TransReID)",
    r"(^|\.)(sie_embed|cv_embed)$": "side information of cameras or views (SIE of TransReID, CLIP-ReID)",
    r"(^|\.)dist_token$": "a distillation token (DeiT)",
    r"(^|\.)attnpool\.": "attention pooling (CLIP's ResNet)",
}
"""Pattern of a tensor's name -> the part of another network that it belongs to."""

RESNETS = {
    (False, 2): "resnet_18",
    (False, 6): "resnet_34",
    (True, 2): "timm/resnet26",  # TAO calls it resnet_18; TAO's resnet_34 is the usual resnet_50
    (True, 6): "resnet_50",
    (True, 23): "resnet_101",
    (True, 36): "resnet_152",
}
"""(bottleneck blocks?, blocks of the third stage) -> the spec's name."""
SWINS = {(6, 96): "tiny", (18, 96): "small", (18, 128): "base"}
"""(blocks of the third stage, channels of the first) -> size."""
VITS = {
    (12, 192, False): "vit_tiny_patch16",
    (12, 384, False): "vit_small_patch16",
    (12, 768, False): "vit_base_patch16",
    (12, 768, True): CLIP_BACKBONE,
}
"""(blocks, width, normalised before the first block as in CLIP?) -> the spec's name, of patches of 16."""
Named = Mapping[str, tuple[str, Tensor]]
"""This project's name -> (the file's name, the tensor)."""


@dataclass(frozen=True, eq=False)
class Adopted:
    """A network with another project's weights."""

    network: Embedder
    source: str
    """Whose weights they are, as sources.source_kind says."""
    tensors: int
    """How many tensors the embedding has; all of them came from the file."""
    persons: int
    """How many rows the file's classifier has; 0 if it has none that fits."""
    mean: tuple[float, ...] | None
    """The mean of each channel, of pixels from 0 to 1; None if the file does not say. So is `std`."""
    std: tuple[float, ...] | None


def adopt_checkpoint(path: Path, *, stem_relu: bool | None, **values: Any) -> Adopted:
    """The network of `values` (those of build_embedder except num_classes) with the weights at `path`.

    With `stem_relu` None it is as in the file's project. Raises ArtifactError if the file is missing, damaged or
    encrypted, needs code to be read or is this project's own, and unless the tensors of backbone, reduction and neck
    are exactly the network's; classifier and centres may differ.
    """
    content = read_file(path)
    tensors = tensors_of(path, content)
    source = source_kind(content, tensors)
    if source == OURS:
        raise ArtifactError(
            f"{path}: a checkpoint of this project already\n  want: nothing; every task takes it as it is"
        )
    with odd_shapes_are_errors(path):
        named = in_our_names(tensors)
        classifier = named["classifier.weight"][1] if "classifier.weight" in named else None
    relu = not drops_stem_relu(content, tensors) if stem_relu is None else stem_relu
    sketch = without_memory(**values, stem_relu=relu, num_classes=1)
    fits = classifier is not None and (sketch is None or classifier.shape[1:] == (sketch.embedding_size,))
    persons = len(classifier) if fits and classifier is not None and classifier.ndim == 2 else 1
    network = build_embedder(**values, stem_relu=relu, num_classes=persons)
    for parameter in network.classifier.parameters():
        nn.init.zeros_(parameter)
    with odd_shapes_are_errors(path):
        report = copy_weights(network, named, source=source, tensors=tensors)
    _require_all(path, network, named, report)
    require_quick_gelu(path, network, source)
    _require_pooling(path, network, source, asked=values["pooling"])
    return Adopted(
        network=network.eval(),
        source=source,
        tensors=sum(not NO_PART_OF_THE_EMBEDDING.fullmatch(name) for name in report.matched),
        persons=network.num_classes if "classifier.weight" in report.matched else 0,
        mean=_per_channel(named, "base.pixel_mean"),
        std=_per_channel(named, "base.pixel_std"),
    )


def _require_pooling(path: Path, network: Embedder, source: str, *, asked: str) -> None:
    """Raises ArtifactError unless the file's project or the spec says how a ViT's tokens are pooled."""
    if not is_vit(network.base):
        return
    if source in (CLIP_REID, DINO) and network.settings["pooling"] != "class":
        raise ArtifactError(
            f"{path}: weights of {source}, whose feature is the class token\n"
            f"  found: model.pooling={asked}\n  want:  model.pooling=class"
        )
    if asked == "auto" and source not in (CLIP_REID, DINO, TRANSREID):
        raise ArtifactError(
            f"{path}: weights of {source}, whose names do not show how a ViT's tokens are pooled\n"
            "  want: model.pooling=class or model.pooling=mean, as its project has it"
        )


def _per_channel(named: Named, name: str) -> tuple[float, ...] | None:
    """fast-reid's mean or std, which are of pixels from 0 to 255, for pixels from 0 to 1."""
    return tuple((named[name][1].flatten() / 255).tolist()) if name in named else None


def _require_all(path: Path, network: Embedder, named: Named, report: WeightsReport) -> None:
    """Raises ArtifactError unless all tensors of the embedding came from the file unchanged, and it has no others."""
    ours = {theirs: name for name, (theirs, _) in named.items()}

    def counts(name: str) -> bool:
        return not NO_PART_OF_THE_EMBEDDING.fullmatch(name.partition(" ")[0])

    missing = [name for name in report.missing if counts(name)]
    wrong = {
        "missing": [name for name in missing if "(" not in name],
        "unexpected": [theirs for theirs in report.unexpected if counts(ours.get(theirs, theirs))],
        "of another shape": [*(name for name in missing if "(" in name), *report.reshaped],
    }
    if not any(wrong.values()):
        return
    lines = [f"{path}: weights of {report.source_kind}, and not of the network that the spec describes"]
    for what, names in wrong.items():
        if names:
            lines.append(f"  {what}: {', '.join(names[:3])}" + (f" ({len(names)} in all)" if len(names) > 3 else ""))
    lacking = [part for pattern, part in PARTS.items() if any(re.search(pattern, name) for name in wrong["unexpected"])]
    if named.get("base.blocks.7.norm1.weight") and "base.blocks.8.norm1.weight" not in named:
        lacking.append("the 8 blocks of TransReID's own vit_small, whose attention is scaled in another way")
    fitting = _fields_that_fit(network, named)
    if lacking:
        lines.append(f"  it has {' and '.join(lacking)}, which the spec's network does not have")
    if fitting and (not lacking or fitting[0].startswith("model.backbone=")):
        lines.append(f"  want: {' '.join(fitting)}, as the file has it")
    elif not lacking:
        lines.append("  want: the weights of that network, or a spec of the file's")
    raise ArtifactError("\n".join(lines))


def _fields_that_fit(network: Embedder, named: Named) -> list[str]:
    """Overrides of the spec that would bring the network closer to the file's."""
    settings, shapes = network.settings, {name: tuple(tensor.shape) for name, (_, tensor) in named.items()}
    backbone = _backbone(shapes)
    if backbone and timm_name(backbone).partition(".")[0] != timm_name(settings["backbone"]).partition(".")[0]:
        return [f"model.backbone={backbone}"]  # what else differs follows from it
    fitting = []
    stem = shapes.get("base.conv1.weight") or shapes.get("base.patch_embed.proj.weight")
    if stem and len(stem) == 4 and stem[1] != settings["input_channels"]:
        fitting.append(f"model.input_channels={stem[1]}")
    gem = "pool.power" in shapes
    if gem != (settings["pooling"] == "gem"):
        plain = "class or model.pooling=mean" if has_class_token(network.base) else "mean"
        fitting.append(f"model.pooling={'gem' if gem else plain}")
    fitting += _patches_that_fit(network, shapes.get("base.pos_embed"))
    reduction = shapes.get("reduction.weight") or shapes.get("reduction.0.weight")
    reduces = not isinstance(network.reduction, nn.Identity)
    if backbone in OSNETS:
        if settings["feat_dim"] != (reduction[0] if reduction else None):
            fitting.append(f"model.feat_dim={reduction[0] if reduction else 'null'}")
    elif reduction and reduction[0] != network.embedding_size:
        fitting.append(f"model.feat_dim={reduction[0]}")
    if backbone and backbone.startswith("swin") and bool(reduction) != settings["reduce_feat_dim"]:
        fitting.append(f"model.reduce_feat_dim={'true' if reduction else 'false'}")
    elif reduces and not reduction and backbone not in OSNETS:
        fitting.append("model.feat_dim=null")
    neck = "bnneck" if "bottleneck.weight" in shapes else ""
    if neck != settings["neck"]:
        fitting.append(f"model.neck={neck}")
    controller = any(".semantic_scale." in name for name in shapes)
    if backbone and backbone.startswith("swin") and controller != (settings["semantic_weight"] >= 0):
        fitting.append(f"model.semantic_weight={1.0 if controller else -1.0}")
    return fitting


def _patches_that_fit(network: Embedder, positions: tuple[int, ...] | None) -> list[str]:
    """What the spec must say for a ViT to have as many patches as the file."""
    if not is_vit(network.base) or positions is None or len(positions) != 3:
        return []
    base: Any = network.base
    embed, wanted = base.patch_embed, positions[1] - positions_in_front(base)
    if embed.num_patches == wanted:
        return []
    for step in range(min(embed.patch_size), 0, -1):
        rows, columns = grid_size(embed.img_size, patch=embed.patch_size, stride=(step, step))
        if rows * columns == wanted:
            return [f"model.stride_size=[{step},{step}]"]
    return [f"model.input_height and model.input_width of {wanted} patches"]


def _vit(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The spec's name of the ViT with tensors of these shapes."""
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"base\.blocks\.(\d+)\.", name))}
    patch = shapes.get("base.patch_embed.proj.weight", ())
    if len(patch) != 4 or patch[2:] != (16, 16):
        return None
    return VITS.get((len(blocks), patch[0], "base.norm_pre.weight" in shapes))


def _backbone(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The spec's name of the backbone that has tensors of these shapes; None if they do not show it."""
    if "base.conv1.conv.weight" in shapes:
        return _osnet(shapes)
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"base\.layer3\.(\d+)\.", name))}
    resnet = RESNETS.get(("base.layer3.0.conv3.weight" in shapes, len(blocks)))
    if resnet and "base.layer1.0.bn1.IN.weight" in shapes:
        return f"{resnet}_ibn_a" if f"{resnet}_ibn_a" in IBN_RESNETS else None
    if resnet:
        return resnet
    blocks = {int(found[1]) for name in shapes if (found := re.match(r"base\.layers\.2\.blocks\.(\d+)\.", name))}
    size = SWINS.get((len(blocks), shapes.get("base.patch_embed.proj.weight", (0,))[0]))
    return f"swin_{size}_patch4_window7_224" if size else _vit(shapes)


def _osnet(shapes: Mapping[str, tuple[int, ...]]) -> str | None:
    """The spec's name of the OSNet that has tensors of these shapes."""
    kind = "plain"
    if "base.conv2.0.IN.weight" in shapes:
        kind = "ibn" if "base.conv2.0.conv3.bn.weight" in shapes else "ain"
    fitting = (name for name, described in OSNETS.items() if described == (kind, shapes["base.conv1.conv.weight"][0]))
    return next(fitting, None)
