"""The adopt task: writes another project's checkpoint or ONNX file as one of this project, which every task takes."""

import logging
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.errors import ArtifactError, SpecError
from reid.files.encryption import is_encrypted
from reid.files.secrets import encryption_key, key_to_environment
from reid.files.writing import replacing, require_writable
from reid.spec import Experiment
from reid.spec.names import is_vit
from reid.spec.network import contract_of, network_values
from reid.stages.outcome import Outcome

logger = logging.getLogger(__name__)

UNSEEN = {
    "resnet": ("last_stride", "stem_relu", "stem_pool", "neck_feat", "with_flip_feature"),
    "osnet": ("stem_pool", "neck_feat", "with_flip_feature"),
    "swin": ("semantic_weight", "neck_feat", "with_flip_feature"),
    "vit": ("stride_size", "neck_feat", "with_flip_feature"),
}
"""Settings of the network that its tensors do not show."""
NEAR = 1e-3
"""Means and stds of pixels that differ by less are the same, only rounded."""


def adopt(spec: Experiment, *, file: Path, output: Path, embedding: str | None = None) -> Outcome:
    """Writes to `output` the network of `file` as the spec describes it, with the spec's preprocessing.

    An .onnx becomes an ONNX file, encrypted if spec.export.encrypted is set; `embedding` names its output that is the
    embedding, if it has several. Any other file becomes a checkpoint, encrypted if there is a key; with a key, an
    unencrypted checkpoint of this project is encrypted as it is. Raises
    ArtifactError if a file is at `output`, or if `file` is missing, damaged, this project's own, or of another network
    than the spec's; see adopt_checkpoint and adopt_onnx.
    """
    if output.exists():
        raise ArtifactError(f"{output}: a file is there already\n  want: another --output, or the file removed")
    require_writable(output)
    key_to_environment(spec.encryption_key)
    if file.suffix.lower() == ".onnx":
        return _adopt_onnx(spec, file, output, embedding)
    if embedding is not None:
        raise SpecError(f"--embedding {embedding}: {file} is a checkpoint\n  want: an .onnx, whose outputs have names")
    return _encrypted_copy(file, output) or _adopt_checkpoint(spec, file, output)


def adopted_name(file: Path) -> Path:
    """The file to write if none is named: <name>.adopted.pth, or .onnx, beside `file`."""
    return file.with_name(f"{file.stem}.adopted{'.onnx' if file.suffix.lower() == '.onnx' else '.pth'}")


def _encrypted_copy(file: Path, output: Path) -> Outcome | None:
    """Encrypts a checkpoint of this project that is not encrypted yet; None if `file` is none, or there is no key."""
    from reid.model.safe_files import read_file, write_file
    from reid.model.sources import OURS, source_kind, tensors_of

    if not encryption_key() or (file.is_file() and is_encrypted(file)):
        return None
    content = read_file(file)
    if source_kind(content, tensors_of(file, content)) != OURS:
        return None
    with replacing(output) as partial, partial.open("wb") as stream:
        write_file(content, stream)
    return Outcome({}, lines=[f"encrypted, and otherwise unchanged: {output}"])


def _adopt_checkpoint(spec: Experiment, file: Path, output: Path) -> Outcome:
    from reid.model.adopting import adopt_checkpoint
    from reid.model.checkpoint import save_model

    section = spec.model
    stem_relu = None if section.stem_relu == "auto" else section.stem_relu == "on"
    adopted = adopt_checkpoint(file, stem_relu=stem_relu, **network_values(spec))
    _require_stem_pool(spec, file, adopted.source)
    contract = contract_of(spec, adopted.network.embedding_size)
    _require_same_normalisation(file, "pixel_mean", adopted.mean, contract.mean)
    _require_same_normalisation(file, "pixel_std", adopted.std, contract.std)
    fit = f"all {adopted.tensors} tensors of the network matched, none is left over"
    _log_unchecked(file, adopted.source, contract, fit, adopted.network.settings)
    save_model(output, adopted.network, contract=contract, persons=range(adopted.persons))
    persons = f"a classifier of {adopted.persons:,} persons" if adopted.persons else "no classifier"
    return Outcome(
        {"tensors": float(adopted.tensors), "embedding_width": float(contract.embedding)},
        lines=[
            f"weights of {adopted.source}: {fit}; {persons}",
            f"written: {output}",
        ],
    )


def _require_stem_pool(spec: Experiment, file: Path, source: str) -> None:
    """Raises SpecError for weights of fast-reid without model.stem_pool: its versions pool in different ways."""
    from reid.model.sources import FAST_REID

    if (
        source == FAST_REID
        and not spec.model.backbone.startswith("osnet_")
        and "stem_pool" not in spec.model.model_fields_set
    ):
        raise SpecError(
            f"{file}: weights of {source}, whose versions pool differently in the stem; the file does not show how\n"
            "  want: model.stem_pool=ceil, if its modeling/backbones/resnet.py has MaxPool2d with ceil_mode=True, "
            "else padded"
        )


def _require_same_normalisation(
    file: Path, field: str, found: tuple[float, ...] | None, wanted: tuple[float, ...]
) -> None:
    """Raises ArtifactError if the file says how pixels are normalised and the spec says otherwise."""
    if found is not None and (
        len(found) != len(wanted) or any(abs(one - other) > NEAR for one, other in zip(found, wanted, strict=True))
    ):
        raise ArtifactError(
            f"{file}: its weights are for another dataset.{field}\n"
            f"  found: {list(wanted)} in the spec\n"
            f"  want:  dataset.{field}={[round(value, 4) for value in found]}"
        )


def _adopt_onnx(spec: Experiment, file: Path, output: Path, embedding: str | None) -> Outcome:
    from reid.deploy.onnx_adopt import adopt_onnx
    from reid.files.encryption import write_model

    model = spec.model
    keeps_its_own = "swin_" in model.backbone and not model.reduce_feat_dim
    width = model.feat_dim if "feat_dim" in model.model_fields_set and not keeps_its_own else None
    content, contract, ports = adopt_onnx(
        file, contract_of(spec, width or 1), output=embedding, any_width=width is None
    )
    logger.info("%s: %s", file.name, ports.in_words())
    if renamed := ports.renamed_in_words():
        logger.info("%s: %s", file.name, renamed)
    _log_unchecked(file, "ONNX", contract, "its input and output fit, and it ran on noise")
    write_model(output, content, key=encryption_key() if spec.export.encrypted else None)
    return Outcome(
        {"embedding_width": float(contract.embedding), "onnx_mib": len(content) / 2**20},
        lines=[f"written: {output}"],
    )


def _kind(backbone: str) -> str:
    """The key of UNSEEN for a backbone of the spec."""
    if "swin_" in backbone:
        return "swin"
    if is_vit(backbone):
        return "vit"
    return "osnet" if backbone.startswith("osnet_") else "resnet"


def _log_unchecked(
    file: Path, source: str, contract: Contract, fit: str, settings: dict[str, Any] | None = None
) -> None:
    """Logs what cannot be checked; the adopted file states it from now on."""
    logger.info(
        "%s: not written by this project (%s): network and preprocessing are taken from the spec; %s", file, source, fit
    )
    if settings:
        kind = _kind(settings["backbone"])
        unseen = ", ".join(f"{name} {_in_words(settings[name])}" for name in UNSEEN[kind])
        logger.info("what its tensors do not show: %s; the pooling is taken to be %s", unseen, settings["pooling"])
    logger.info(
        "images: %d x %d pixels (width x height), %s, resized bilinearly, mean %s, std %s",
        contract.width, contract.height, contract.channel_order, list(contract.mean), list(contract.std),
    )  # fmt: skip


def _in_words(value: object) -> object:
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else value
