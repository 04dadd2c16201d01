"""task.json: the record of a finished task.

It decides which files are used again, moved and deleted, so it is checked like a file of unknown origin: a path in it
has to be the name of something in the result's own folder, else the file is no record.
"""

import json
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from pipelines.ir import Task, Value

FINISHED = "task.json"
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
    if name in {"", ".", ".."} or any(character in name for character in "/\\\0"):
        raise ValueError(f"found {name!r}, want a plain name")
    return name


def _require_file_inside(stamp: Stamp) -> Stamp:
    name = PurePosixPath(stamp[0])
    if name.is_absolute() or ".." in name.parts or "\0" in stamp[0]:
        raise ValueError(f"found {stamp[0]!r}, want the name of a file of the artifact")
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
        return Record.model_validate_json((folder / FINISHED).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise NoRecordError(f"cannot be read: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(step) for step in first["loc"])
        what = first["msg"].removeprefix("Value error, ")
        raise NoRecordError(f"{field}: {what}" if field else what) from None


def record_of(task: Task, folder: Path) -> Record | None:
    """The record in this folder; None if there is none. Raises NoRecordError also if its outputs are not the task's."""
    record = read_record(folder)
    if record is not None:
        _compare_names("artifacts", record.artifacts.keys(), task.output_artifacts.keys())
        _compare_names("parameters", record.parameters.keys(), task.output_parameters.keys())
        for name, value in record.parameters.items():
            if not isinstance(value, KINDS.get(task.output_parameters[name], object)):
                raise NoRecordError(f"parameters.{name}: found {value!r}, want {task.output_parameters[name]}")
        for name, made in record.artifacts.items():
            _check(name, made, task.output_artifacts[name], folder)
    return record


def _compare_names(field: str, found: Any, wanted: Any) -> None:
    if set(found) != set(wanted):
        lists = [", ".join(sorted(names)) or "nothing" for names in (found, wanted)]
        raise NoRecordError(f"{field}: found {lists[0]}, want {lists[1]}")


def _check(name: str, made: Made, schema: str, folder: Path) -> None:
    if made.kind != schema:
        raise NoRecordError(f"artifacts.{name}.schema: found {made.kind!r}, want {schema}")
    if schema == "system.Metrics" and not all(isinstance(value, NUMBER) for value in made.metadata.values()):
        raise NoRecordError(f"artifacts.{name}.metadata: want numbers only")
    lines = made.metadata.get("lines", [])
    if not isinstance(lines, list) or not all(isinstance(line, str) for line in lines):
        raise NoRecordError(f"artifacts.{name}.metadata.lines: found {json.dumps(lines)[:80]}, want texts")
    try:
        inside = (folder / made.path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError):  # links that lead in a circle
        inside = False
    if not inside:
        raise NoRecordError(f"artifacts.{name}.path: {made.path} is a link that leads out of the folder")
