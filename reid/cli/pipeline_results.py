"""What the last run of a pipeline left in a results folder, for tasks that run after it. Everything is only read.

`<results_dir>/latest/<stage>` leads to the folder of a stage's last result; task.json in it is written when the stage
has ended well, and names its outputs. Nothing is written there: a changed output would be no cached result any more.
"""

import hashlib
import json
import logging
from dataclasses import dataclass, field
from pathlib import Path

from reid.deploy.opening import find_checkpoint
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
from reid.files.records import DamagedRecordError, read_json_record, read_or_set_aside
from reid.spec import Experiment
from reid.spec.slices import stage_slice

logger = logging.getLogger(__name__)


def trained_by_pipeline(spec: Experiment) -> Path | None:
    """The model directory of the pipeline's training; None if there is none.

    Raises ArtifactError if that training had other settings than the spec's.
    """
    record, model = _output(spec, "train", "model")
    if model is None:
        return None
    wanted = hashlib.sha256(json.dumps(stage_slice(spec, "train"), sort_keys=True).encode()).hexdigest()
    if record.key_parts.get("spec") != wanted:
        raise ArtifactError(
            f"{model}: the pipeline trained it with other settings than this spec has\n"
            "  want: the spec and the overrides of that run, or a run of the pipeline with these;\n"
            "        or the model named in the task's checkpoint, e.g. export.checkpoint"
        )
    return model


def exported_by_pipeline(spec: Experiment, model: Path) -> Path | None:
    """The ONNX that the pipeline exported of this model; None if there is none, or if it is of another model."""
    _, onnx = _output(spec, "export", "onnx")
    _, parity = _output(spec, "export", "parity")
    if onnx is None or parity is None:
        return None
    recorded = read_or_set_aside(parity, _Parity)
    return onnx if recorded and recorded.checkpoint_sha256 == file_sha256(find_checkpoint(model)) else None


def built_by_pipeline(spec: Experiment, onnx: Path) -> Path | None:
    """The engine that the pipeline built of this ONNX; None if there is none, or if it is of another."""
    _, folder = _output(spec, "gen_trt_engine", "engine")
    engine = folder / "model.engine" if folder else None
    build = folder / "build.json" if folder else None
    if engine is None or build is None or not (engine.is_file() and build.is_file()):
        return None
    record = read_or_set_aside(build, _Build)
    return engine if record and record.onnx_sha256 == file_sha256(onnx) else None


@dataclass
class _Artifact:
    path: str


@dataclass
class _Task:
    """What is read here of task.json."""

    key_parts: dict[str, str] = field(default_factory=dict)
    artifacts: dict[str, _Artifact] = field(default_factory=dict)


@dataclass
class _Parity:
    checkpoint_sha256: str


@dataclass
class _Build:
    onnx_sha256: str


def _output(spec: Experiment, stage: str, name: str) -> tuple[_Task, Path | None]:
    """The record of a stage's last result and one of its outputs; None if the stage has not ended well."""
    folder = Path(spec.results_dir) / "latest" / stage
    try:
        record = read_json_record(folder / "task.json", _Task)
    except FileNotFoundError:
        return _Task(), None
    except DamagedRecordError as error:
        logger.warning("%s\n  the pipeline's result is not used", error)
        return _Task(), None
    artifact = record.artifacts.get(name)
    path = folder.resolve() / Path(artifact.path).name if artifact else None
    return (record, path) if path and path.exists() else (record, None)
