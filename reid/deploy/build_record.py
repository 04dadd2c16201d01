"""The build record: a file beside an engine that says how it was built, and holds its preprocessing contract."""

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from reid.choice import Choice
from reid.contract import Contract
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
from reid.thresholds import Thresholds

RECORD = "build.json"
"""The record's name in the engine's folder. A copy of the engine has its own beside it: its name and ".json"."""
RUNNABLE = "not run yet"
"""The value of `measured` if this machine can run the engine and has not run it yet."""


@dataclass(frozen=True)
class Profile:
    """The batch sizes that the engine takes, and the one it is tuned for."""

    min_batch_size: int
    opt_batch_size: int
    max_batch_size: int


@dataclass(frozen=True)
class BuildRecord:
    """How an engine was built, or why none was."""

    built: bool
    reason: str | None
    """Why nothing was built."""
    onnx_sha256: str
    contract: dict[str, Any]
    data_type: str
    profile: Profile
    workspace_mib: int
    package: str | None = None
    version: str | None = None
    targets: list[str] = field(default_factory=list)
    """Compute capabilities of the GPUs that can run the engine."""
    gpu: str | None = None
    """The GPU it was built on; null if it was built ahead of time, without a GPU."""
    tf32: bool | None = None
    """Whether float32 convolutions may round their inputs to TF32's 10 bits."""
    seconds: float | None = None
    engine_bytes: int | None = None
    engine_sha256: str | None = None
    encrypted: bool = False
    measured: str = "not run"
    """The GPU on which it was run, or why it was not run."""
    speed: list[dict[str, float]] = field(default_factory=list)
    """A row for each batch size: batch_size, latency_ms (median, copies to and from the GPU too), images_per_second."""
    parity: dict[str, Any] | None = None
    """How close its embeddings of query images are to the ONNX's; null if they were not compared."""
    thresholds: dict[str, Any] | None = None
    """From which cosine on two images count as one person, as the ONNX had it; null if it did not know."""

    chosen_on: dict[str, str] | None = None
    """On which images the best checkpoint was chosen, as the ONNX had it; null if it did not know."""

    def to_json(self) -> str:
        """The record as indented JSON."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @property
    def preprocessing(self) -> Contract:
        """The contract, checked."""
        return Contract.from_json(json.dumps(self.contract))

    @property
    def known_thresholds(self) -> Thresholds | None:
        """The thresholds, checked; None if they are not known."""
        return Thresholds.from_json(json.dumps(self.thresholds), where=RECORD) if self.thresholds else None

    @property
    def known_choice(self) -> Choice | None:
        """On which images the best checkpoint was chosen, checked; None if that is not known."""
        return Choice.from_json(json.dumps(self.chosen_on), where=RECORD) if self.chosen_on else None


def record_file(engine: Path) -> Path:
    """The file of an engine's record: <its name>.json, or if there is none, build.json in its folder."""
    own = engine.with_name(f"{engine.name}.json")
    return own if own.exists() else engine.with_name(RECORD)


def read_record(engine: Path) -> BuildRecord:
    """The record beside an engine; raises ArtifactError if either is missing, or the record is of another file."""
    file = record_file(engine)
    record = _parse(file) if file.exists() else None
    if not engine.is_file():
        reason = f"\n  found: not built: {record.reason}" if record and record.reason else ""
        raise ArtifactError(
            f"{engine.absolute()}: no such engine{reason}\n  want:  one that the task gen_trt_engine built"
        )
    if record is None:
        raise ArtifactError(
            f"{engine}: no build record beside it, and so no preprocessing contract\n"
            f"  want: {engine.name}.json or {RECORD}, which gen_trt_engine writes"
        )
    found = file_sha256(engine)
    if record.engine_sha256 != found:
        raise ArtifactError(
            f"{file}: the record of another engine\n"
            f"  found: engine_sha256 {record.engine_sha256}\n  want:  {found}, {engine.name}'s"
        )
    return record


def _parse(file: Path) -> BuildRecord:
    """The record in this file; raises ArtifactError if it is something else."""
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        return BuildRecord(**{**values, "profile": Profile(**values["profile"])})
    except (OSError, ValueError, TypeError, KeyError) as error:
        wanted = ", ".join(entry.name for entry in fields(BuildRecord))
        raise ArtifactError(f"{file}: not a build record ({error})\n  want: {wanted}") from None
