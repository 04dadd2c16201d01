"""A spec that describes another model than the file holds is an error, not something to be overlooked."""

from pathlib import Path

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.spec import Experiment

FIELDS = {
    "model": {
        "input_height": "height",
        "input_width": "width",
        "input_channels": "channels",
        "with_flip_feature": "flip",
    },
    "dataset": {"pixel_mean": "mean", "pixel_std": "std"},
}
"""The spec's fields, and the contract's that say the same."""


def require_agreement(spec: Experiment, contract: Contract, backbone: str | None, model: Path) -> None:
    """ArtifactError where a field that the spec gives is not what the model's file says; the others don't count.

    backbone: as the file names it, None where it doesn't. A pipeline's stages are handed none of these fields: there
    the model is all that says it.
    """
    _require_backbone(spec, backbone, model)
    for section, names in FIELDS.items():
        values = getattr(spec, section)
        for name, entry in names.items():
            given = getattr(values, name)
            if isinstance(given, list) and contract.channels == 1:
                given = [sum(given) / len(given)]  # as train makes one grey channel's figures
            if name in values.model_fields_set and contract.differences(**{entry: given}):
                raise ArtifactError(
                    f"{model}: made for {section}.{name} {_plain(getattr(contract, entry))}\n"
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
