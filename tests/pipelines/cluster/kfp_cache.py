"""Plays the cache of KFP 2.17 over a compiled pipeline: which tasks of a run are taken from earlier runs.

The rule is that of backend/src/v2/driver/cache.go and cacheutils/cache.go: a task's key is a hash of its image and
command, claims, parameters, the names of its input artifacts and the ports of its outputs. At run time the name of an
artifact is its id in ML Metadata (metadata/converter.go): a task that runs again gives its artifacts new ids, one that
is taken from the cache hands on the old ones.
"""

import graphlib
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

Document = Mapping[str, Any]


class Cache:
    """The cache and the ML Metadata of one installation, which outlive its runs."""

    def __init__(self) -> None:
        self._ids = count(1)
        self._executions: dict[str, dict[str, str]] = {}
        """Key -> the ids of the output artifacts of the task that had it."""

    def run(
        self, pipeline: Document, platform: Document, *, changed: Collection[str] = (), **parameters: str
    ) -> list[str]:
        """Runs every task, and returns those that are taken from the cache.

        changed: the outputs ("validate.fingerprint") that have another value than the spec alone gives them.
        """
        run = _Run(pipeline, platform, parameters, changed)
        hits = []
        for name in run.in_order():
            cached = self._executions.get(run.key(name)) if run.is_cacheable(name) else None
            if cached is not None:
                hits.append(name)
            run.outputs[name] = cached or {port: str(next(self._ids)) for port in run.made_by(name, "artifacts")}
            if run.is_cacheable(name):
                self._executions[run.key(name)] = run.outputs[name]
        return hits


@dataclass
class _Run:
    pipeline: Document
    platform: Document
    given: Mapping[str, str]
    changed: Collection[str] = ()
    outputs: dict[str, dict[str, str]] = field(default_factory=dict)
    """Task -> port -> the artifact's id."""

    def in_order(self) -> list[str]:
        needs = {
            name: sorted(self._task(name).get("dependentTasks", [])) for name in self.pipeline["root"]["dag"]["tasks"]
        }
        return list(graphlib.TopologicalSorter(needs).static_order())

    def is_cacheable(self, name: str) -> bool:
        return bool(self._task(name)["cachingOptions"].get("enableCache"))

    def made_by(self, name: str, kind: str) -> Mapping[str, Any]:
        component = self.pipeline["components"][self._task(name)["componentRef"]["name"]]
        found: Mapping[str, Any] = component.get("outputDefinitions", {}).get(kind, {})
        return found

    def key(self, name: str) -> str:
        inputs = self._task(name).get("inputs", {})
        label = self.pipeline["components"][self._task(name)["componentRef"]["name"]]["executorLabel"]
        container = self.pipeline["deploymentSpec"]["executors"][label]["container"]
        own = self.platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].get(label, {})
        parts = {
            "artifacts": {port: self._artifact(source) for port, source in inputs.get("artifacts", {}).items()},
            "parameters": {port: self._value(source) for port, source in inputs.get("parameters", {}).items()},
            "output artifacts": {**self.made_by(name, "artifacts"), "executor-logs": {}},
            "output parameters": {port: one["parameterType"] for port, one in self.made_by(name, "parameters").items()},
            "container": [container["image"], *container["command"], *container["args"]],
            "claims": sorted({self._value(mount["pvcNameParameter"]) for mount in own.get("pvcMount", [])}),
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def _task(self, name: str) -> Document:
        task: Document = self.pipeline["root"]["dag"]["tasks"][name]
        return task

    def _artifact(self, source: Document) -> str:
        output = source["taskOutputArtifact"]
        return self.outputs[output["producerTask"]][output["outputArtifactKey"]]

    def _value(self, source: Document) -> str:
        """A parameter's value; that of a task's output is the same for the same spec and data."""
        if "taskOutputParameter" in source:
            output = source["taskOutputParameter"]
            name = f"{output['producerTask']}.{output['outputParameterKey']}"
            return f"{'another ' * (name in self.changed)}{name} of {self._pipeline_parameter('spec')}"
        if "componentInputParameter" in source:
            return self._pipeline_parameter(source["componentInputParameter"])
        return str(source["runtimeValue"]["constant"])

    def _pipeline_parameter(self, name: str) -> str:
        default = self.pipeline["root"]["inputDefinitions"]["parameters"][name].get("defaultValue", "")
        return self.given.get(name, str(default))
