"""A task's inputs and outputs as files, in the formats of KFP's launcher and of kfp.local.

Before a task, its executor input is made, the JSON that replaces `{{$}}`. After it, the executor output JSON and one
file per output parameter are read, as strictly as the cluster's launcher reads them.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.ir import Task, Value
from reid.errors import PipelineError

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
        listed = written["artifacts"].get(name, {}).get("artifacts", [])
        if not listed and not path.exists():
            raise PipelineError(
                f"{task.stage}: ended well, but its output artifact {name!r} is neither written nor listed"
            )
        artifacts[name] = Artifact(path, schema, listed[0].get("metadata", {}) if listed else {})
    return Outputs(parameters, artifacts)


def _read_executor_output(path: Path) -> dict[str, Any]:
    """The parsed file; empty if a container wrote none. The cluster's parser refuses other fields than its two."""
    if not path.exists():
        return {"parameterValues": {}, "artifacts": {}}
    try:
        written = json.loads(path.read_text(encoding="utf-8"), parse_constant=_no_constant)
    except ValueError as error:
        raise PipelineError(f"{path}: not the JSON that KFP reads: {error}") from None
    unknown = sorted(set(written) - {"parameterValues", "artifacts"})
    if unknown:
        raise PipelineError(f"{path}: unknown field {unknown[0]!r}\n  want: parameterValues, artifacts")
    return {"parameterValues": written.get("parameterValues", {}), "artifacts": written.get("artifacts", {})}


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _output_parameter(task: Task, name: str, kind: str, written: Mapping[str, Any], file: Path) -> Value:
    values: Mapping[str, Value] = written["parameterValues"]
    if name in values:
        return values[name]
    if not file.exists():
        raise PipelineError(f"{task.stage}: ended well, but did not write its output parameter {name!r}")
    text = file.read_text(encoding="utf-8")
    if kind == "STRING":
        return text
    try:
        return json.loads(text)  # type: ignore[no-any-return]
    except ValueError:
        raise PipelineError(f"{task.stage}: output parameter {name!r} is {text[:80]!r}\n  want: {kind}") from None
