"""A task's inputs and outputs as files, in the formats of KFP's launcher and of kfp.local.

Before a task, its executor input is made, the JSON that replaces `{{$}}`. After it, the executor output JSON and one
file per output parameter are read, as strictly as the cluster's launcher reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from pipelines.ir import Task, Value
from pipelines.local.result_record import is_of_kind, objection_to_metadata
from reid.errors import PipelineError
from reid.files.records import DamagedRecordError, parse_json, read_json_record, read_plain_file

EXECUTOR_OUTPUT = "executor_output.json"
EXECUTOR_LOGS = "executor-logs"
"""The output artifact that KFP's driver adds to those of every task, for the log; no component declares it."""
LOG = "log.txt"
SUFFIXES = {"system.HTML": ".html", "system.Markdown": ".md"}


@dataclass(frozen=True)
class Artifact:
    """A file or folder that a task wrote, with what the task says about it."""

    path: Path
    schema: str
    metadata: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Outputs:
    """Everything that a task has written: values and files."""

    parameters: dict[str, Value]
    artifacts: dict[str, Artifact]

    @property
    def metrics(self) -> dict[str, float]:
        """The figures of every Metrics artifact."""
        shown = [artifact.metadata for artifact in self.artifacts.values() if artifact.schema == "system.Metrics"]
        return {name: float(value) for metadata in shown for name, value in metadata.items()}

    @property
    def lines(self) -> list[str]:
        """The sentences of the closing summary."""
        return [line for artifact in self.artifacts.values() for line in artifact.metadata.get("lines", [])]


def artifact_path(folder: Path, name: str, schema: str, file_names: Mapping[str, str]) -> Path:
    """The path of an output artifact. The suffix is for browsers; on a cluster there is none."""
    return folder / file_names.get(name, name + SUFFIXES.get(schema, ""))


def executor_input(
    task: Task,
    *,
    parameters: Mapping[str, Value],
    artifacts: Mapping[str, Artifact],
    folder: Path,
    file_names: Mapping[str, str],
) -> dict[str, Any]:
    """The JSON that a task is started with."""
    return {
        "inputs": {
            "parameterValues": dict(parameters),
            "artifacts": {
                name: _listed(name, artifact.path, artifact.schema, artifact.metadata)
                for name, artifact in artifacts.items()
            },
        },
        "outputs": {
            "parameters": {
                name: {"outputFile": str(folder / "parameters" / name)} for name in sorted(task.output_parameters)
            },
            "artifacts": {
                name: _listed(name, artifact_path(folder, name, schema, file_names), schema, {})
                for name, schema in sorted(task.output_artifacts.items())
            }
            | {EXECUTOR_LOGS: _listed(EXECUTOR_LOGS, folder / LOG, "system.Artifact", {})},
            "outputFile": str(folder / EXECUTOR_OUTPUT),
        },
    }


def _listed(name: str, path: Path, schema: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    kind = {"schemaTitle": schema, "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": name, "type": kind, "uri": str(path), "metadata": dict(metadata)}]}


class _Entry(BaseModel):
    metadata: dict[str, Any] = {}


class _Listed(BaseModel):
    artifacts: list[_Entry] = []


class _ExecutorOutput(BaseModel):
    """executor_output.json; the cluster's parser refuses other fields than these two."""

    model_config = ConfigDict(extra="forbid")

    parameters: dict[str, Any] = Field({}, alias="parameterValues")
    artifacts: dict[str, _Listed] = {}


def read_outputs(task: Task, folder: Path, file_names: Mapping[str, str]) -> Outputs:
    """What a task that ended well has written. Raises PipelineError if it did not write an output that it declares."""
    written = _read_executor_output(folder / EXECUTOR_OUTPUT)
    parameters = {
        name: _output_parameter(task, name, kind, written, folder / "parameters" / name)
        for name, kind in task.output_parameters.items()
    }
    artifacts = {}
    for name, schema in task.output_artifacts.items():
        path = artifact_path(folder, name, schema, file_names)
        listed = written.artifacts.get(name, _Listed()).artifacts
        if not listed and not path.exists():
            raise PipelineError(
                f"{task.stage}: ended well, but its output artifact {name!r} is neither written nor listed"
            )
        metadata = listed[0].metadata if listed else {}
        if objection := objection_to_metadata(metadata, schema):
            raise PipelineError(f"{folder / EXECUTOR_OUTPUT}: artifacts.{name}.{objection}")
        artifacts[name] = Artifact(path, schema, metadata)
    return Outputs(parameters, artifacts)


def _read_executor_output(path: Path) -> _ExecutorOutput:
    """The parsed file; empty if a container wrote none."""
    try:
        return read_json_record(path, _ExecutorOutput)
    except FileNotFoundError:
        return _ExecutorOutput()
    except DamagedRecordError as error:
        raise PipelineError(str(error)) from None


def _output_parameter(task: Task, name: str, kind: str, written: _ExecutorOutput, file: Path) -> Value:
    if name in written.parameters:
        value: Value = written.parameters[name]
        found = repr(value)
    else:
        try:
            text = read_plain_file(file).decode("utf-8")
        except FileNotFoundError:
            raise PipelineError(f"{task.stage}: ended well, but did not write its output parameter {name!r}") from None
        except (DamagedRecordError, UnicodeDecodeError) as error:
            raise PipelineError(f"{task.stage}: output parameter {name!r} cannot be read\n{error}") from None
        value, found = _parsed(text, kind, file), repr(text)
    if not is_of_kind(value, kind):
        raise PipelineError(f"{task.stage}: output parameter {name!r} is {found[:80]}\n  want: {kind}")
    return value


def _parsed(text: str, kind: str, file: Path) -> Any:
    """The value in the file of an output parameter; None if it is no JSON."""
    if kind == "STRING":
        return text
    try:
        return parse_json(text.encode(), source=file)
    except DamagedRecordError:
        return None
