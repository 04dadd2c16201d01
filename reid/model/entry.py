"""The entry `reid` of a checkpoint, checked before anybody uses it: which network, which input, which persons.

Whoever reads a checkpoint of this project reads this entry here: types and ranges are wrong in one way only then.
"""

from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from reid.errors import ArtifactError
from reid.files.records import shown

FORMAT = 1
ADDED_SETTINGS: dict[str, Any] = {
    "stem_pool": "padded",
    "pooling": "mean",
    "stride_size": None,
    "id_loss_type": "softmax",
}
"""Settings that older checkpoints do not have, and their values at that time."""

Count = Annotated[int, Field(ge=1, le=1 << 31)]
Name = Annotated[str, Field(max_length=200)]
Rate = Annotated[float, Field(ge=0, le=1)]
Stride = Annotated[list[Annotated[int, Field(ge=1, le=1024)]], Field(min_length=2, max_length=2)]
Person = Annotated[int, Field(ge=-(1 << 63), lt=1 << 63)]

SETTINGS: dict[str, Any] = {
    **dict.fromkeys(("backbone", "stem_pool", "pooling", "neck", "neck_feat", "id_loss_type"), Name),
    **dict.fromkeys(("input_channels", "height", "width", "num_classes"), Count),
    **dict.fromkeys(("drop_path", "drop_out", "att_drop_rate", "dropout_rate"), Rate),
    **dict.fromkeys(("stem_relu", "with_flip_feature", "reduce_feat_dim"), bool),
    "last_stride": int,
    "feat_dim": Count | None,
    "semantic_weight": Annotated[float, Field(ge=-1e6, le=1e6)],
    "stride_size": Stride | None,
}
"""Keyword of build_embedder -> the type of its value; build_embedder refuses words that it does not know."""


class Entry(BaseModel):
    """The entry `reid`, with values of the right types; `settings` checks those of `model`."""

    model_config = ConfigDict(strict=True, extra="ignore")
    format: int
    model: dict[str, Any]
    contract: str
    persons: Annotated[list[Person], Field(max_length=10_000_000)]
    chosen_on: str = ""
    chosen_fingerprint: str = ""
    thresholds: str | None = None


def read_entry(path: Path, entry: object) -> Entry:
    """The checked entry of the checkpoint at `path`; raises ArtifactError if it is something else."""
    if not isinstance(entry, dict) or type(entry.get("format")) is not int or entry["format"] != FORMAT:
        found = shown(entry.get("format")) if isinstance(entry, dict) else type(entry).__name__
        raise ArtifactError(f"{path}: a checkpoint of format {found}\n  want: format {FORMAT}")
    lacking = sorted({"contract", "model", "persons"} - set(entry))
    if lacking:
        raise ArtifactError(f"{path}: its entry reid is incomplete\n  want: {', '.join(lacking)} in it too")
    try:
        read = Entry.model_validate(entry)
    except ValidationError as error:
        raise _first(path, "reid", error) from None
    for name, value in read.model.items():
        if name in SETTINGS:
            _check_setting(path, name, value)
    return read


def network_settings(path: Path, entry: Entry) -> dict[str, Any]:
    """The keyword values of build_embedder; raises ArtifactError if some are missing or unknown."""
    settings = ADDED_SETTINGS | entry.model
    if set(settings) != set(SETTINGS):
        missing, unknown = sorted(set(SETTINGS) - set(settings)), sorted(map(str, set(settings) - set(SETTINGS)))
        raise ArtifactError(
            f"{path}: written by another version of this project\n"
            f"  its model section misses {missing}, has unknown {unknown}"
        )
    return settings


def _check_setting(path: Path, name: str, value: object) -> None:
    try:
        TypeAdapter(SETTINGS[name]).validate_python(value, strict=True)
    except ValidationError as error:
        raise _first(path, f"reid.model.{name}", error) from None


def _first(path: Path, where: str, error: ValidationError) -> ArtifactError:
    first = error.errors(include_url=False, include_context=False)[0]
    field = where if where != "reid" else ".".join(["reid", *(str(step) for step in first["loc"][:1])])
    # pydantic names the members of a union too ("constrained-int"); only the places in a list are of use
    field += "".join(f"[{step}]" for step in first["loc"] if isinstance(step, int))
    wanted = first["msg"].removeprefix("Input should be ")
    return ArtifactError(f"{path}: its entry {field} is wrong\n  found: {shown(first['input'])}\n  want:  {wanted}")
