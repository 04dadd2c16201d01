"""A spec that describes another model than the model's file does is refused, never overlooked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.spec import Experiment
from reid.spec.facts import PartOfNetwork, SaidByModel
from reid.spec.fields import fields_with, value_of
from reid.spec.names import is_swin, is_vit


def require_agreement(spec: Experiment, contract: Contract, network: Mapping[str, Any], model: Path) -> None:
    """Raises ArtifactError if a field that the spec gives is not what the model's file says.

    `network` has the keyword values of build_embedder that the file states; what it does not state is not compared, nor
    is a field that the spec does not give. The stages of a pipeline are handed none of these fields, so that there the
    model alone says them.
    """
    keywords = fields_with(PartOfNetwork)
    without_effect = _without_effect(spec, backbone=str(network.get("backbone") or spec.model.backbone))
    for name, fact in fields_with(SaidByModel).items():
        if name in without_effect:
            continue  # the spec's warning says so
        if fact.contract:
            _require_field(spec, name, contract, entry=fact.contract, model=model)
        else:
            _require_setting(spec, name, network.get(keywords[name].keyword), model)


def _require_field(spec: Experiment, name: str, contract: Contract, *, entry: str, model: Path) -> None:
    """Compares one field of the spec with the entry of the contract that says the same."""
    section, _, key = name.partition(".")
    values = getattr(spec, section)
    given = getattr(values, key)
    if isinstance(given, list) and contract.channels == 1:
        given = [sum(given) / len(given)]  # as train makes one grey channel's figures
    if given is None:
        return  # the backbone's own width
    if key in values.model_fields_set and contract.differences(**{entry: given}):
        raise ArtifactError(
            f"{model}: made for {name} {_plain(getattr(contract, entry))}\n"
            f"  found: {_plain(given)} in the spec\n"
            f"  want:  the model's own, or the field left out: the model knows its "
            f"{'network' if key == 'feat_dim' else 'input'}"
        )


def _require_setting(spec: Experiment, name: str, found: Any, model: Path) -> None:
    """Compares one field of the spec with what the file says of its network; None if it does not say it."""
    section, _, key = name.partition(".")
    given = value_of(spec, name)
    if isinstance(found, bool) and isinstance(given, str):
        found = "on" if found else "off"
    if key not in getattr(spec, section).model_fields_set or found is None or given in ("auto", found):
        return
    if key == "backbone":
        from reid.model.backbones import timm_name

        if timm_name(found) == timm_name(given):
            return
    raise ArtifactError(
        f"{model}: a checkpoint of {name} {_plain(found)}\n"
        f"  found: {_plain(given)} in the spec\n"
        "  want:  the model's own, or the field left out: the model knows its network"
    )


def _without_effect(spec: Experiment, *, backbone: str) -> set[str]:
    """The fields that do nothing with the network of a backbone."""
    swin = is_swin(backbone)
    return {
        name
        for name, idle in {
            "model.stride_size": not is_vit(backbone),
            "model.semantic_weight": not swin,
            "model.reduce_feat_dim": not swin,
            "model.feat_dim": swin and not spec.model.reduce_feat_dim,
            "model.neck_feat": not spec.model.neck,
        }.items()
        if idle
    }


def _plain(value: object) -> object:
    """The value as a spec has it."""
    if isinstance(value, tuple):
        return list(value)
    return "''" if value == "" else value
