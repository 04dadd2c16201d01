"""What the last run of a pipeline left in a results folder, for tasks that run after it. Everything is only read.

`<results_dir>/latest/<stage>` leads to the folder of a stage's last result; task.json in it is written when the stage
has ended well, and names its outputs. Nothing is written there: a changed output would be no cached result any more.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import Any

from reid.deploy.opening import find_checkpoint
from reid.errors import ArtifactError
from reid.files.hashes import file_sha256
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
    parts = record.get("key_parts")
    if not isinstance(parts, dict) or parts.get("spec") != wanted:
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
    recorded = parity.read_text(encoding="utf-8", errors="replace")
    return onnx if f'"checkpoint_sha256": "{file_sha256(find_checkpoint(model))}"' in recorded else None


def built_by_pipeline(spec: Experiment, onnx: Path) -> Path | None:
    """The engine that the pipeline built of this ONNX; None if there is none, or if it is of another."""
    _, folder = _output(spec, "gen_trt_engine", "engine")
    engine = folder / "model.engine" if folder else None
    build = folder / "build.json" if folder else None
    if engine is None or build is None or not (engine.is_file() and build.is_file()):
        return None
    record = build.read_text(encoding="utf-8", errors="replace")
    return engine if f'"onnx_sha256": "{file_sha256(onnx)}"' in record else None


def _output(spec: Experiment, stage: str, name: str) -> tuple[dict[str, Any], Path | None]:
    """The record of a stage's last result and one of its outputs; None if the stage has not ended well."""
    folder = Path(spec.results_dir) / "latest" / stage
    try:
        record = json.loads((folder / "task.json").read_text(encoding="utf-8"))
        path = folder.resolve() / Path(record["artifacts"][name]["path"]).name
    except (OSError, ValueError, KeyError, TypeError):
        return {}, None
    return (record, path) if path.exists() else (record, None)
