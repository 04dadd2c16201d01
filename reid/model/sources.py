"""Finds out whose weights a file holds, and gives its tensors this project's names: base.*, reduction, bottleneck, ...

torchvision, timm, Microsoft, IBN-Net and torchreid name a bare backbone; TAO and reid-strong-baseline put it under
"base.", fast-reid under "backbone.", beside its "heads."; TAO's and SOLIDER's Swin is mmcv's. vit_sources.py knows the
Vision Transformers.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from reid.errors import ArtifactError
from reid.model.entry import read_entry
from reid.model.safe_files import require_plain
from reid.model.vit_sources import CLIP_REID, clip_reid_names, is_vit_file, vit_kind, vit_names

DEEPEST_WRAPPER = 10
"""How many entries may wrap a state dict; a file can hold an entry that holds itself."""
OURS, FAST_REID = "this project", "fast-reid"
WRAPPERS = ("teacher", "state_dict", "model")
"""The entries in which SOLIDER, Lightning, torchreid, Microsoft and fast-reid keep their tensors."""

HEAD = ("bottleneck.", "classifier.", "reduction.", "pool.power")
GEM_POWER = re.compile(r"((heads|base|backbone)\.)?(\w*pool\w*|gem|gap)\.p")
"""The power of GeM pooling: heads.pool_layer.p in fast-reid, gap.p in Cluster Contrast."""
NOT_WEIGHTS = ("relative_position_index", "attn_mask", "num_batches_tracked")
"""The ends of names of tensors that are computed or counted, not learned."""

Renames = tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...]
"""(pattern, what takes its place), in order."""
MM_SWIN: Renames = (
    (r"^patch_embed\.projection\.", "patch_embed.proj."),
    (r"^stages\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample."),
    (r"^semantic_embed_w\.(\d+)\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.semantic_scale."),
    (r"^semantic_embed_b\.(\d+)\.", lambda found: f"layers.{int(found[1]) + 1}.downsample.semantic_shift."),
    (r"^stages\.", "layers."),
    (r"\.attn\.w_msa\.", ".attn."),
    (r"\.ffn\.layers\.0\.0\.", ".mlp.fc1."),
    (r"\.ffn\.layers\.1\.", ".mlp.fc2."),
    (r"^norm3\.", "norm."),
)
"""mmcv's names -> timm's; timm merges patches at the beginning of a stage, mmcv at the end of the stage before."""

MERGES_AT_THE_END: Renames = (
    (r"^layers\.(\d+)\.downsample\.", lambda found: f"layers.{int(found[1]) + 1}.downsample."),
)
"""Microsoft's names -> timm's."""

OSNET: Renames = (
    (r"\.conv2a\.", ".conv2.0.layers.0."),
    (r"\.conv2([bcd])\.(\d)\.", lambda found: f".conv2.{'abcd'.index(found[1])}.layers.{found[2]}."),
    (r"^conv([23])\.2\.0\.", r"pool\1.0."),
)
"""torchreid's names in its first OSNet -> those in its later one (AIN), which this project takes for both."""


def tensors_of(path: Path, content: Any) -> dict[str, Tensor]:
    """The tensors in what `read_file` returned, by their names there, without the entries that wrap them.

    Of a training of this project they are the averaged ones, if it has them. Raises ArtifactError if TAO encrypted
    them, or if there are none.
    """
    if isinstance(content, dict) and "reid" in content:
        read_entry(path, content["reid"])
        content = content.get("ema", content)
    for _ in range(DEEPEST_WRAPPER):
        if not isinstance(content, dict):
            break
        if "state_dict_encrypted" in content:
            raise ArtifactError(f"{path}: encrypted by TAO\n  want: weights that were saved without an encryption_key")
        wrapped = [content[key] for key in WRAPPERS if isinstance(content.get(key), dict)]
        if not wrapped:
            break
        content = wrapped[0]
    entries = content.items() if isinstance(content, dict) else ()
    tensors = {
        str(name).replace("_orig_mod.", "").removeprefix("module."): value  # torch.compile's and DataParallel's
        for name, value in entries
        if isinstance(value, Tensor)
    }
    if not tensors:
        raise ArtifactError(f"{path}: no tensors in it\n  want: a state dict, bare or under {' or '.join(WRAPPERS)}")
    require_plain(path, tensors)
    return tensors


@contextmanager
def odd_shapes_are_errors(path: Path) -> Iterator[None]:
    """Raises ArtifactError if tensors cannot be arranged as this project has them, for they have other axes."""
    try:
        yield
    except (RuntimeError, LookupError, TypeError, ValueError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        raise ArtifactError(
            f"{path}: its tensors have shapes that no such network has ({reason})\n  want: the weights of a network"
        ) from None


def source_kind(content: Any, tensors: Mapping[str, Tensor]) -> str:
    """Whose file it is, recognised by names that only that project writes."""
    if isinstance(content, dict) and "reid" in content:
        return OURS
    vit = vit_kind(content, tensors)
    if vit:
        return vit
    signs = {
        "TAO": any(name.startswith("model.base.") for name in tensors),
        "SOLIDER": _is_mm_swin(tensors),
        "strong baseline": any(name.startswith("base.") for name in tensors),
        FAST_REID: any(name.startswith("heads.") for name in tensors),
        "Microsoft Swin": "layers.0.downsample.reduction.weight" in tensors,
        "torchreid": {"conv1.weight", "classifier.weight"} <= set(tensors) or "conv1.conv.weight" in tensors,
        "IBN-Net": "layer1.0.bn1.IN.weight" in tensors,
    }
    return next((kind for kind, holds in signs.items() if holds), "torchvision or timm")


def drops_stem_relu(content: Any, tensors: Mapping[str, Tensor]) -> bool:
    """Whether the weights were trained in a ResNet without a ReLU after the stem's batch normalisation."""
    if source_kind(content, tensors) == OURS:
        return not content["reid"]["model"].get("stem_relu", True)
    if any(".bn1.IN." in name for name in tensors):  # the strong baseline's ResNet IBN-a has it
        return False
    return any(name.removeprefix("model.") == "base.conv1.weight" for name in tensors)


def in_our_names(tensors: Mapping[str, Tensor]) -> dict[str, tuple[str, Tensor]]:
    """This project's name -> (the file's name, tensor in this project's order), for tensors that are learned."""
    if vit_kind(None, tensors) == CLIP_REID:
        return clip_reid_names({name: tensor for name, tensor in tensors.items() if not name.endswith(NOT_WEIGHTS)})
    vit, of_backbone = is_vit_file(tensors), _namer_of_backbone(tensors)
    named: dict[str, tuple[str, Tensor]] = {}
    for theirs, tensor in tensors.items():
        name = theirs.removeprefix("model.")
        if name.endswith(NOT_WEIGHTS):
            continue
        own = vit_names(name, theirs, tensor) if vit else None
        named |= own or _head(name, theirs, tensor) or of_backbone(name, theirs, tensor)
    return named


def _head(name: str, theirs: str, tensor: Tensor) -> dict[str, tuple[str, Tensor]]:
    """A tensor behind the backbone under this project's name; empty if it is of the backbone."""
    if GEM_POWER.fullmatch(name):
        return {"pool.power": (theirs, tensor.reshape(-1))}
    if name.startswith(("base.feature.", "fcneck.")):
        # TAO's reduction: a 1 x 1 convolution (D, C, 1, 1) behind a ResNet, a matrix behind Swin
        last = name.rpartition(".")[2]
        return {f"reduction.{last}": (theirs, tensor.flatten(1) if tensor.ndim == 4 else tensor)}
    if name.startswith("heads."):
        return _fast_reids_head(name, theirs, tensor)
    return {name: (theirs, tensor)} if name.startswith(HEAD) else {}


def _namer_of_backbone(
    tensors: Mapping[str, Tensor],
) -> Callable[[str, str, Tensor], dict[str, tuple[str, Tensor]]]:
    """(name, the file's name, tensor) -> the tensor under this project's name, for a backbone with these tensors."""
    mm_swin = _is_mm_swin(tensors)
    merges_at_the_end = any(name.endswith("layers.0.downsample.reduction.weight") for name in tensors)
    osnet = any(name.endswith("conv1.conv.weight") for name in tensors)
    patterns = OSNET if osnet else MM_SWIN if mm_swin else MERGES_AT_THE_END if merges_at_the_end else ()

    def of_backbone(name: str, theirs: str, tensor: Tensor) -> dict[str, tuple[str, Tensor]]:
        name = name.removeprefix("base.").removeprefix("backbone.")
        ordered = _merged_as_timm(tensor) if mm_swin and ".downsample." in name else tensor
        for pattern, replacement in patterns:
            name = re.sub(pattern, replacement, name)
        # a layer, its normalisation and a ReLU behind OSNet's pooling
        behind = re.match(r"fc\.([01]\.\w+)$", name) if osnet else None
        return {f"reduction.{behind[1]}" if behind else f"base.{name}": (theirs, ordered)}

    return of_backbone


def _fast_reids_head(name: str, theirs: str, tensor: Tensor) -> dict[str, tuple[str, Tensor]]:
    """A tensor of fast-reid's EmbeddingHead, whose one list holds the BNNeck and perhaps a 1 x 1 convolution."""
    if name in ("heads.weight", "heads.classifier.weight"):
        return {"classifier.weight": (theirs, tensor)}
    if name == "heads.bottleneck.0.weight" and tensor.ndim == 4:
        return {
            "reduction.weight": (theirs, tensor.flatten(1)),
            "reduction.bias": (theirs, tensor.new_zeros(len(tensor))),
        }
    return {re.sub(r"^heads\.bottleneck\.\d+\.", "bottleneck.", name): (theirs, tensor)}


def _is_mm_swin(tensors: Mapping[str, Tensor]) -> bool:
    return any(".attn.w_msa." in name for name in tensors)


def _merged_as_timm(tensor: Tensor) -> Tensor:
    """(..., C x 2 rows x 2 columns), as mmcv unfolds four neighbours -> (..., 2 columns x 2 rows x C), timm's order."""
    neighbours = tensor.reshape(*tensor.shape[:-1], -1, 2, 2)
    return neighbours.transpose(-1, -3).flatten(-3)
