"""The part of KFP's driver that turns a task's resources into those of its pod (backend/src/v2/driver/driver.go)."""

import re
from collections.abc import Mapping
from typing import Any

PARAMETER = re.compile(r"\{\{\$\.inputs\.parameters\['pipelinechannel--(.+)'\]\}\}")


def pod_resources(document: Mapping[str, Any], given: Mapping[str, str]) -> dict[str, dict[str, dict[str, str]]]:
    """Executor -> limits and requests of its main container, with these pipeline parameters over their defaults."""
    defined = document["root"]["inputDefinitions"]["parameters"]
    values = {name: entry["defaultValue"] for name, entry in defined.items() if "defaultValue" in entry} | dict(given)

    def resolved(value: str) -> str:
        """A parameter's value; the driver reads only texts (resolvePodSpecInputRuntimeParameter)."""
        found = PARAMETER.fullmatch(value)
        if not found:
            return value
        return values[found[1]] if isinstance(values[found[1]], str) else ""

    pods = {}
    for name, executor in document["deploymentSpec"]["executors"].items():
        asked = executor["container"]["resources"]
        pod: dict[str, dict[str, str]] = {"limits": {}, "requests": {}}
        for field, kind, resource in (
            ("resourceMemoryLimit", "limits", "memory"),
            ("resourceMemoryRequest", "requests", "memory"),
            ("resourceCpuLimit", "limits", "cpu"),
            ("resourceCpuRequest", "requests", "cpu"),
        ):
            if asked.get(field):
                pod[kind][resource] = resolved(asked[field])
        accelerator = asked.get("accelerator", {})
        kind, count = (resolved(accelerator.get(field, "")) for field in ("resourceType", "resourceCount"))
        if kind and count:  # an empty count is no count
            pod["limits"][kind] = count
        pods[name] = pod
    return pods
