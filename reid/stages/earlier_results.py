"""The JSON files of earlier stages that `register` reads, with the fields that it needs; others are kept as well."""

from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from reid.errors import ArtifactError
from reid.files.records import read_json_record


class Record(BaseModel):
    """A JSON of an earlier stage."""

    model_config = ConfigDict(extra="allow")


class Figures(Record):
    """metrics.json of evaluate."""

    headline: str
    mAP: float  # noqa: N815
    rank1: float
    reranked_mAP: float  # noqa: N815
    reranked_rank1: float
    evaluated_images: str = ""
    chosen_on: str = ""
    chosen_on_test: str = ""
    data_sets: list[tuple[str, str]] = []
    """Name and fingerprint of each."""


class Inside(Record):
    """How a model that prepares images itself takes them."""

    pixels: dict[str, Any]


class Parity(Record):
    """parity.json of export."""

    checkpoint: str
    checkpoint_sha256: str
    onnx_sha256: str
    passed: bool
    worst_cosine: float
    images: int
    data_type: str = "FP32"
    encrypted: bool = False
    inside: Inside | None = None


class Speed(Record):
    """A row of an engine's measured speed."""

    batch_size: float
    images_per_second: float


class EngineParity(Record):
    """How close an engine is to its ONNX."""

    passed: bool


class Build(Record):
    """build.json of gen_trt_engine."""

    built: bool
    onnx_sha256: str = ""
    reason: str | None = None
    package: str | None = None
    version: str | None = None
    data_type: str = "FP32"
    targets: list[str] = []
    measured: str = "not run"
    speed: list[Speed] = []
    parity: EngineParity | None = None


def read_earlier(path: Path, record: type[Record]) -> dict[str, Any]:
    """The fields of the file. Raises ArtifactError if it is missing, or no such record."""
    try:
        return read_json_record(path, record, finite=False).model_dump(exclude_unset=True)
    except FileNotFoundError:
        raise ArtifactError(f"{path}: no such file; want the JSON that an earlier stage writes") from None
