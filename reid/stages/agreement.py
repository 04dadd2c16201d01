"""A spec that describes another model than the model's file does is refused, never overlooked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.spec import Experiment
from reid.spec.facts import PartOfNetwork, SaidByModel
from reid.spec.fields import fields_with, value_of
from reid.spec.names import is_vit


def require_agreement(spec: Experiment, contract: Contract, network: Mapping[str, Any], model: Path) -> None:
    """Raises ArtifactError if a field that the spec gives is not what the model's file says.

    `network` has the keyword values of build_embedder that the file states; what it does not state is not compared, nor
    is a field that the spec does not give. The stages of a pipeline are handed none of these fields, so that there the
    model alone says them.
    """
    keywords = fields_with(PartOfNetwork)
    for name, fact in fields_with(SaidByModel).items():
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
    if key in values.model_fields_set and contract.differences(**{entry: given}):
        raise ArtifactError(
            f"{model}: made for {name} {_plain(getattr(contract, entry))}\n"
            f"  found: {_plain(given)} in the spec\n"
            "  want:  the model's own, or the field left out: the model knows its input"
        )


def _require_setting(spec: Experiment, name: str, found: Any, model: Path) -> None:
    """Compares one field of the spec with what the file says of its network; None if it does not say it."""
    section, _, key = name.partition(".")
    given = value_of(spec, name)
    if key not in getattr(spec, section).model_fields_set or found is None or given in ("auto", found):
        return
    if key == "stride_size" and not is_vit(spec.model.backbone):
        return  # it has no effect there, which the spec's warning says
    if key == "backbone":
        from reid.model.backbones import timm_name

        if timm_name(found) == timm_name(given):
            return
    raise ArtifactError(
        f"{model}: a checkpoint of {name} {found}\n"
        f"  found: {given} in the spec\n"
        "  want:  the model's own, or the field left out: the model knows its network"
    )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
