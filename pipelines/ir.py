"""The compiled pipeline (KFP's IR, the YAML that a cluster gets) as plain values: tasks, and the source of each input.

It reads what the local runner can run: one flat graph of container tasks. Everything else that the IR can hold
(conditions, loops, exit handlers, importers, nested pipelines) is refused by name, never skipped. Imports no kfp.
"""

import graphlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from reid.errors import PipelineError

Value = str | int | float | bool | list[Any] | dict[str, Any]

CASTS = {"STRING": str, "NUMBER_INTEGER": int, "NUMBER_DOUBLE": float, "BOOLEAN": bool, "LIST": list, "STRUCT": dict}
PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(\w+)'\]\}\}")
"""A pipeline parameter as kfp writes it into a resource request."""
REFUSED_ON_A_TASK = {
    "parameterIterator": "dsl.ParallelFor",
    "artifactIterator": "dsl.ParallelFor",
    "iteratorPolicy": "dsl.ParallelFor",
    "triggerPolicy": "dsl.If or dsl.ExitHandler",
}


@dataclass(frozen=True)
class Constant:
    """An input whose value is in the pipeline itself."""

    value: Value


@dataclass(frozen=True)
class PipelineParameter:
    """An input that the run is started with."""

    name: str


@dataclass(frozen=True)
class TaskOutput:
    """An input that another task writes."""

    task: str
    output: str


Source = Constant | PipelineParameter | TaskOutput


@dataclass(frozen=True)
class Task:
    """One box of the graph: a container with typed inputs and outputs."""

    name: str
    image: str
    command: tuple[str, ...]
    """Command and arguments; `{{$}}` in them stands for the executor input."""
    environment: Mapping[str, str]
    cacheable: bool
    gpus: int
    """The number that is asked for; if a pipeline parameter says how many, its default."""
    parameters: Mapping[str, Source]
    parameter_types: Mapping[str, str]
    artifacts: Mapping[str, TaskOutput]
    output_parameters: Mapping[str, str]
    """Name -> KFP type, e.g. NUMBER_DOUBLE."""
    output_artifacts: Mapping[str, str]
    """Name -> KFP schema, e.g. system.Model."""
    needs: frozenset[str]
    """Names of the tasks that must have ended well before this one."""
    shared_memory: str | None = None
    """Size of its /dev/shm as Kubernetes writes it, e.g. 2Gi; None: the engine's default, 64 MB with Docker."""
    resource_parameters: Mapping[str, Source] = field(default_factory=dict)
    """Inputs that kfp adds for the resources, e.g. pipelinechannel--gpus: given to the task, and no ports of it."""
    accelerator: bool = False
    """Whether it asks for GPUs. How many it uses on this machine is decided by its spec and by what there is."""

    @property
    def stage(self) -> str:
        """The name that is shown and used for folders: kfp's, with the underscores of the Python function."""
        return self.name.replace("-", "_")

    def signature(self) -> str:
        """What the component is, apart from its image, its resources and the other tasks: a part of the cache key."""
        parts = [
            list(self.command),
            dict(self.environment),
            dict(self.parameter_types),
            sorted(self.artifacts),
            dict(self.output_parameters),
            dict(self.output_artifacts),
        ]
        return json.dumps(parts, sort_keys=True)


@dataclass(frozen=True)
class Pipeline:
    """A compiled pipeline: its tasks in an order in which they can run, and the parameters it takes."""

    name: str
    tasks: tuple[Task, ...]
    parameter_types: Mapping[str, str]
    defaults: Mapping[str, Value]

    def arguments(self, given: Mapping[str, Value]) -> dict[str, Value]:
        """The parameters of a run, given ones over defaults. Raises PipelineError if one is unknown or missing."""
        unknown = sorted(set(given) - set(self.parameter_types))
        if unknown:
            raise PipelineError(
                f"pipeline {self.name}: unknown parameter {unknown[0]!r}\n"
                f"  want: {', '.join(sorted(self.parameter_types))}"
            )
        values = {**self.defaults, **given}
        missing = sorted(set(self.parameter_types) - set(values))
        if missing:
            raise PipelineError(f"pipeline {self.name}: parameter {missing[0]!r} has no value")
        return {name: cast(value, self.parameter_types[name]) for name, value in values.items()}


def cast(value: Value, kfp_type: str) -> Value:
    """The value in its declared type; the IR keeps whole numbers as floats."""
    return CASTS[kfp_type](value)  # type: ignore[no-any-return, operator]


def load(path: Path) -> Pipeline:
    """The pipeline compiled into this file. Raises PipelineError if it holds something that a local run cannot do."""
    document, *platform = yaml.safe_load_all(path.read_text(encoding="utf-8"))
    memory = _shared_memory(platform[0] if platform else {})
    inputs = document["root"].get("inputDefinitions", {})
    if "artifacts" in inputs:
        raise PipelineError(f"{path}: takes artifacts as pipeline inputs; the local runner can't run that")
    parameters = inputs.get("parameters", {})
    tasks = {name: _task(name, entry, document, memory) for name, entry in document["root"]["dag"]["tasks"].items()}
    order = graphlib.TopologicalSorter({name: sorted(task.needs) for name, task in tasks.items()}).static_order()
    return Pipeline(
        name=document["pipelineInfo"]["name"],
        tasks=tuple(tasks[name] for name in order),
        parameter_types={name: entry["parameterType"] for name, entry in parameters.items()},
        defaults={name: entry["defaultValue"] for name, entry in parameters.items() if "defaultValue" in entry},
    )


def _shared_memory(platform: Mapping[str, Any]) -> dict[str, str]:
    """Executor -> size of the memory volume that the platform spec, the second YAML document, mounts as /dev/shm."""
    kubernetes = platform.get("platforms", {}).get("kubernetes", {})
    executors = kubernetes.get("deploymentSpec", {}).get("executors", {})
    return {
        label: mount["sizeLimit"]
        for label, executor in executors.items()
        for mount in executor.get("emptyDirMounts", [])
        if mount["mountPath"] == "/dev/shm" and "sizeLimit" in mount
    }


def _task(name: str, entry: Mapping[str, Any], document: Mapping[str, Any], shared_memory: Mapping[str, str]) -> Task:
    for key, meaning in REFUSED_ON_A_TASK.items():
        if key in entry:
            raise _refusal(name, f"{meaning} ({key})")
    component = document["components"][entry["componentRef"]["name"]]
    if "dag" in component:
        raise _refusal(name, "a nested pipeline (dag)")
    executor = document["deploymentSpec"]["executors"][component["executorLabel"]]
    if "container" not in executor:
        raise _refusal(name, f"{next(iter(executor))} instead of a container")
    container = executor["container"]
    inputs, outputs = component.get("inputDefinitions", {}), component.get("outputDefinitions", {})
    given = entry.get("inputs", {})
    declared, sources_given = inputs.get("parameters", {}), given.get("parameters", {})
    parameters = {key: _parameter(name, key, value) for key, value in sources_given.items() if key in declared}
    for key, definition in inputs.get("parameters", {}).items():
        if key not in parameters and "defaultValue" in definition:
            parameters[key] = Constant(definition["defaultValue"])
    artifacts = {key: _artifact(name, key, value) for key, value in given.get("artifacts", {}).items()}
    sources: list[Source] = [*parameters.values(), *artifacts.values()]
    producers = {source.task for source in sources if isinstance(source, TaskOutput)}
    return Task(
        name=name,
        image=container.get("image", ""),
        command=_command(name, container),
        environment={item["name"]: item.get("value", "") for item in container.get("env", [])},
        cacheable=bool(entry.get("cachingOptions", {}).get("enableCache", False)),
        gpus=_gpus(container.get("resources", {}).get("accelerator", {}), document),
        parameters=parameters,
        parameter_types={key: value["parameterType"] for key, value in inputs.get("parameters", {}).items()},
        resource_parameters={
            key: _resource_parameter(name, key, value) for key, value in sources_given.items() if key not in declared
        },
        artifacts=artifacts,
        output_parameters={key: value["parameterType"] for key, value in outputs.get("parameters", {}).items()},
        output_artifacts={key: _schema(name, key, value) for key, value in outputs.get("artifacts", {}).items()},
        needs=frozenset(producers | set(entry.get("dependentTasks", []))),
        shared_memory=shared_memory.get(component["executorLabel"]),
        accelerator="accelerator" in container.get("resources", {}),
    )


def _gpus(accelerator: Mapping[str, Any], document: Mapping[str, Any]) -> int:
    """The number of GPUs of a task; if a pipeline parameter says how many, its default."""
    found = PARAMETER.fullmatch(str(accelerator.get("resourceCount", "")))
    if not found:
        return int(accelerator.get("resourceCount") or accelerator.get("count", 0))
    return int(document["root"]["inputDefinitions"]["parameters"][found[1]].get("defaultValue") or 0)


def _parameter(task: str, name: str, entry: Mapping[str, Any]) -> Source:
    if "componentInputParameter" in entry:
        return PipelineParameter(entry["componentInputParameter"])
    if "taskOutputParameter" in entry:
        output = entry["taskOutputParameter"]
        return TaskOutput(output["producerTask"], output["outputParameterKey"])
    constant = entry.get("runtimeValue", {}).get("constant")
    if constant is None or (isinstance(constant, str) and "{{" in constant):
        raise _refusal(task, f"the value of parameter {name!r}: {json.dumps(entry)}")
    return Constant(constant)


def _resource_parameter(task: str, name: str, entry: Mapping[str, Any]) -> Source:
    """The source of an input that kfp adds for a resource: a pipeline parameter, also where it stands in a text."""
    found = PARAMETER.fullmatch(str(entry.get("runtimeValue", {}).get("constant", "")))
    return PipelineParameter(found[1]) if found else _parameter(task, name, entry)


def _artifact(task: str, name: str, entry: Mapping[str, Any]) -> TaskOutput:
    if "taskOutputArtifact" not in entry:
        raise _refusal(task, f"the source of artifact {name!r}: {json.dumps(entry)}")
    output = entry["taskOutputArtifact"]
    return TaskOutput(output["producerTask"], output["outputArtifactKey"])


def _schema(task: str, name: str, entry: Mapping[str, Any]) -> str:
    if entry.get("isArtifactList"):
        raise _refusal(task, f"output {name!r} as a list of artifacts")
    return str(entry["artifactType"]["schemaTitle"])


def _command(task: str, container: Mapping[str, Any]) -> tuple[str, ...]:
    words = tuple(str(word) for word in [*container.get("command", []), *container.get("args", [])])
    for word in words:
        if word.startswith(('{"Concat"', '{"IfPresent"')) or re.search(r"\{\{\$[^}]", word):
            raise _refusal(task, f"the placeholder in {word!r}; {{{{$}}}} is the one it knows")
    return words


def _refusal(task: str, what: str) -> PipelineError:
    return PipelineError(f"task {task}: the local runner can't run {what}")
