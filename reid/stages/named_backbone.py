"""A spec that names another backbone than the model has is an error, not something to be overlooked."""

from pathlib import Path

from reid.errors import ArtifactError
from reid.spec import Experiment


def require_backbone(spec: Experiment, found: str | None, model: Path) -> None:
    """ArtifactError where the spec names a model.backbone and the model's file another; neither has to name one.

    A pipeline's stages are handed no model section: there the model is all that says it.
    """
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
