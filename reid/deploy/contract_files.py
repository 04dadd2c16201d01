"""The preprocessing contract in a file of any kind that carries one."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.build_record import read_record
from reid.deploy.onnx import read_onnx
from reid.errors import ArtifactError
from reid.files.records import read_json_record


def read_contract(file: Path) -> Contract:
    """The contract in a checkpoint, an ONNX, an engine's build record, or JSON as `reid.contract` holds it.

    Raises ArtifactError if the file is missing, is of another kind, or has no contract in it.
    """
    reader = READERS.get(file.suffix.lower())
    if reader is None:
        raise ArtifactError(f"{file}: not a file with a contract\n  want: one of {', '.join(sorted(READERS))}")
    if not file.is_file():
        raise ArtifactError(f"{file.absolute()}: no such file")
    return reader(file)


def _of_json(file: Path) -> Contract:
    values = read_json_record(file, dict[str, Any])
    record = values.get("contract")
    return Contract.from_json(json.dumps(record if isinstance(record, dict) else values), where=str(file))


def _of_checkpoint(file: Path) -> Contract:
    from reid.model.checkpoint import load_model

    return load_model(file).contract


READERS: dict[str, Callable[[Path], Contract]] = {
    ".json": _of_json,
    ".onnx": lambda file: read_onnx(file)[1],
    ".pth": _of_checkpoint,
    ".tlt": _of_checkpoint,
    ".engine": lambda file: read_record(file).preprocessing,
    ".plan": lambda file: read_record(file).preprocessing,
}
"""File ending -> file -> contract."""
