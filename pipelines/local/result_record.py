"""task.json: the record of a finished task.

It decides which files are used again, moved and deleted, so it is checked like a file of unknown origin: a path in it
has to be the name of something in the result's own folder, else the file is no record.
"""

import json
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipelines.ir import Task, Value
from reid.files.records import DamagedRecordError, read_json_record

FINISHED = "task.json"
MOST_NAME, MOST_PATH = 255, 1024
"""Bytes of a name that file systems take, and characters of the name of an artifact's file."""
Stamp = tuple[str, int, int]
"""A file's name under its artifact ("." if the artifact is a file), size in bytes, time of change in nanoseconds."""
NUMBER = (int, float)
KINDS: dict[str, type | tuple[type, ...]] = {
    "STRING": str,
    "NUMBER_DOUBLE": NUMBER,
    "NUMBER_INTEGER": NUMBER,
    "BOOLEAN": bool,
    "LIST": list,
    "STRUCT": dict,
}
"""KFP's type of an output parameter -> the types that its value has in JSON."""


class NoRecordError(ValueError):
    """task.json is not the record of a finished task; the text names the field."""


def _require_plain_name(name: str) -> str:
    if name in {"", ".", ".."} or any(character in name for character in "/\\\0") or len(name.encode()) > MOST_NAME:
        raise ValueError("a plain name")
    return name


def _require_file_inside(stamp: Stamp) -> Stamp:
    name = PurePosixPath(stamp[0])
    too_long = len(stamp[0]) > MOST_PATH or any(len(part.encode()) > MOST_NAME for part in name.parts)
    if name.is_absolute() or ".." in name.parts or "\0" in stamp[0] or too_long:
        raise ValueError("the name of a file of the artifact")
    return stamp


class Made(BaseModel):
    """One output artifact of a finished task."""

    model_config = ConfigDict(strict=True, frozen=True)

    path: Annotated[str, AfterValidator(_require_plain_name)]
    """Its name in the result's folder."""
    kind: str = Field(alias="schema")
    """KFP's schema, e.g. system.Model."""
    metadata: dict[str, Any]
    digest: str
    """SHA-256 of its content."""
    files: list[Annotated[Stamp, AfterValidator(_require_file_inside)]]


class Record(BaseModel):
    """A finished task."""

    model_config = ConfigDict(strict=True, frozen=True)

    seconds: float
    key_parts: dict[str, str]
    parameters: dict[str, Value]
    artifacts: dict[str, Made]


def read_record(folder: Path) -> Record | None:
    """The record in this folder; None if there is none. Raises NoRecordError if the file is no record."""
    try:
        return read_json_record(folder / FINISHED, Record)
    except FileNotFoundError:
        return None
    except DamagedRecordError as error:
        raise NoRecordError(error.one_line) from None


def record_of(task: Task, folder: Path) -> Record | None:
    """The record in this folder; None if there is none. Raises NoRecordError also if its outputs are not the task's."""
    record = read_record(folder)
    if record is not None:
        _compare_names("artifacts", record.artifacts.keys(), task.output_artifacts.keys())
        _compare_names("parameters", record.parameters.keys(), task.output_parameters.keys())
        for name, value in record.parameters.items():
            if not is_of_kind(value, task.output_parameters[name]):
                raise NoRecordError(f"parameters.{name}: found {value!r}, want {task.output_parameters[name]}")
        for name, made in record.artifacts.items():
            _check(name, made, task.output_artifacts[name], folder)
    return record


def is_of_kind(value: Any, kind: str) -> bool:
    """Whether an output parameter has KFP's type."""
    wanted = KINDS.get(kind, object)
    return isinstance(value, wanted) and not (wanted is NUMBER and isinstance(value, bool))


def objection_to_metadata(metadata: Mapping[str, Any], schema: str) -> str:
    """What is wrong with what a task says about an artifact; empty if nothing is."""
    if schema == "system.Metrics" and not all(is_of_kind(value, "NUMBER_DOUBLE") for value in metadata.values()):
        return "metadata: want numbers only"
    lines = metadata.get("lines", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        return f"metadata.lines: found {json.dumps(lines)[:80]}, want texts"
    return ""


def _compare_names(field: str, found: Any, wanted: Any) -> None:
    if set(found) != set(wanted):
        lists = [", ".join(sorted(names)) or "nothing" for names in (found, wanted)]
        raise NoRecordError(f"{field}: found {lists[0]}, want {lists[1]}")


def _check(name: str, made: Made, schema: str, folder: Path) -> None:
    if made.kind != schema:
        raise NoRecordError(f"artifacts.{name}.schema: found {made.kind!r}, want {schema}")
    if objection := objection_to_metadata(made.metadata, schema):
        raise NoRecordError(f"artifacts.{name}.{objection}")
    try:
        inside = (folder / made.path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        inside = False
    if not inside:
        raise NoRecordError(f"artifacts.{name}.path: {made.path} is a link that leads out of the folder")
