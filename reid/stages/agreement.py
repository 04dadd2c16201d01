"""A spec that describes another model than the model's file does is refused, never overlooked."""

from pathlib import Path

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.spec import Experiment
from reid.spec.facts import SaidByModel
from reid.spec.fields import fields_with


def require_agreement(spec: Experiment, contract: Contract, backbone: str | None, model: Path) -> None:
    """Raises ArtifactError if a field that the spec gives is not what the model's file says.

    `backbone` is the one that the file names, None if it names none. A field that the spec does not give is not
    compared. The stages of a pipeline are handed none of these fields, so that there the model alone says them.
    """
    _require_backbone(spec, backbone, model)
    for name, fact in fields_with(SaidByModel).items():
        if fact.contract:
            _require_field(spec, name, contract, entry=fact.contract, model=model)


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


def _require_backbone(spec: Experiment, found: str | None, model: Path) -> None:
    wanted = spec.model.backbone
    if "backbone" not in spec.model.model_fields_set or found in (None, "unknown", wanted):
        return
    from reid.model.backbones import timm_name

    if timm_name(str(found)) != timm_name(wanted):
        raise ArtifactError(
            f"{model}: a checkpoint of model.backbone {found}\n"
            f"  found: {wanted} in the spec\n"
            "  want:  the model's own, or the field left out: the model knows its network"
        )


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
