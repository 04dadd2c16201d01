"""What KFP 2.17.0 answers of a run, as it was recorded: its tasks (v2beta1), Argo's workflow (v1beta1) and a log.

A stage's state is one of those of `PHASES`, with Argo's message after a colon: "WAITS:Unschedulable: 0/1 nodes …".
"""

import base64
import json
import zlib
from collections.abc import Mapping
from typing import Any

START, END, NOT_YET = "2026-11-27T06:58:39Z", "2026-11-27T06:58:59Z", "0001-01-01T00:00:00Z"
PHASES = {
    "DRIVER WAITS": ("Pending", ""),
    "DRIVER FAILED": ("Failed", "Omitted"),
    "WAITS": ("Succeeded", "Pending"),
    "RUNNING": ("Succeeded", "Running"),
    "RETRIED": ("Succeeded", "Failed"),
    "SUCCEEDED": ("Succeeded", "Succeeded"),
    "CACHED": ("Succeeded", "Skipped"),
    "FAILED": ("Succeeded", "Failed"),
    "OMITTED": ("Omitted", "Omitted"),
}
"""State of a stage -> the phases of the pods of its driver and of itself."""
STATES = {
    "Pending": "PENDING",
    "Running": "RUNNING",
    "Succeeded": "SUCCEEDED",
    "Failed": "FAILED",
    "Skipped": "SKIPPED",
}
LOG = """\
time=2026-11-27T06:59:10.104Z level=INFO msg="capturing logs" argo=true
I1127 06:59:11.250014      16 launcher_v2.go:188] input ComponentSpec:{
line one
\x1b[31mred [bold]\x1b[0m
error: no such thing
E1127 06:59:15.147845      16 launcher_v2.go:449] Component failed to execute successfully: exit status 1
F1127 06:59:17.576502      16 main.go:59] failed to execute component: exit status 1
time=2026-11-27T06:59:18.496Z level=INFO msg="sub-process exited" argo=true error="exit status 1"
Error: exit status 1
"""
DRIVER_LOG = """\
I1127 06:59:00.806221      16 driver.go:101] parsed
{
F1127 06:59:00.813619      16 main.go:127] KFP driver: failed to init podSpecPatch: quantities must match
"""


def _task(name: str, state: str | None) -> dict[str, Any]:
    """A task without a state was omitted: the field is left out."""
    ended = state not in {"PENDING", "RUNNING"}
    times = {"create_time": START, "start_time": START, "end_time": END if ended else NOT_YET}
    history = [{"update_time": START, **({"state": state} if state else {})}]
    return {"display_name": name, **times, **({"state": state} if state else {}), "state_history": history}


def task_details(stages: Mapping[str, str]) -> list[dict[str, Any]]:
    """The details of every task, of which KFP has three for a stage, and each with its tries."""
    details = [_task("root-driver", "SUCCEEDED"), _task("root", "RUNNING"), _task("root(0)", "RUNNING")]
    details.append({"create_time": START, "start_time": START, "execution_id": "7"})  # a line of KFP's cache
    for stage, told in stages.items():
        kind = told.partition(":")[0]
        driver, pod = PHASES[kind]
        whole = {"Pending": "RUNNING", None: None}.get(driver, STATES.get(driver))
        details.append(_task(f"{stage}-driver", whole))
        if driver not in {"Omitted"}:
            details.append(_task(f"{stage}-driver(0)", STATES[driver]))
        if kind == "DRIVER WAITS":
            continue
        at_work = "RUNNING" if kind in {"WAITS", "RUNNING", "RETRIED"} else STATES.get(pod)
        if kind == "CACHED":
            details += [_task(stage, "SUCCEEDED"), _task(f"{stage}(0)", "SUCCEEDED"), _task("executor", "SKIPPED")]
        elif pod == "Omitted":
            details.append(_task(stage, None))
        else:
            details += [_task(name, at_work) for name in (stage, f"{stage}(0)", "executor")]
            details.append(_task("executor(0)", STATES[pod]))
    return details


def workflow(stages: Mapping[str, str], *, message: str = "", compressed: bool = False) -> dict[str, Any]:
    """Argo's workflow, its nodes under ids that end in a number that is also in the pod's name."""
    nodes: dict[str, Any] = {}

    def add(name: str, kind: str, phase: str, **more: Any) -> None:
        number = zlib.crc32(name.encode())
        nodes[f"reid-x1-{number}"] = {"name": f"reid-x1(0).{name}", "type": kind, "phase": phase, **more}

    add("root-driver(0)", "Pod", "Succeeded", templateName="system-dag-driver", startedAt=START)
    for stage, told in stages.items():
        kind, _, said = told.partition(":")
        driver, pod = PHASES[kind]
        cached = {"outputs": {"parameters": [{"name": "cached-decision", "value": str(kind == "CACHED").lower()}]}}
        of_driver = {"message": said} if kind.startswith("DRIVER") else {}
        template = {"templateName": "system-container-driver", "startedAt": START, **of_driver}
        if driver == "Omitted":
            omitted = {"message": "omitted: depends condition not met", "templateName": "system-container-driver"}
            add(f"root(0).{stage}-driver", "Skipped", "Omitted", **omitted)
        else:
            add(f"root(0).{stage}-driver(0)", "Pod", driver, **template, **cached)
        if pod == "Skipped":
            add(f"root(0).{stage}(0).executor", "Skipped", pod, message="when 'true != true' evaluated false")
        elif pod == "Omitted":
            add(f"root(0).{stage}", "Skipped", pod, message="omitted: depends condition not met")
        elif pod:
            if kind == "FAILED":
                ended = {"message": "No more retries left", "startedAt": START}
                add(f"root(0).{stage}(0).executor", "Retry", "Failed", templateName="retry", **ended)
            of_pod = {
                "templateName": "system-container-impl",
                "startedAt": START,
                **({"message": said} if said else {}),
            }
            add(f"root(0).{stage}(0).executor(0)", "Pod", pod, **of_pod)
    status: dict[str, Any] = {"phase": "Running", **({"message": message} if message else {})}
    if compressed:
        packer = zlib.compressobj(wbits=31)
        packed = packer.compress(json.dumps(nodes).encode()) + packer.flush()
        status["compressedNodes"] = base64.b64encode(packed).decode()
    else:
        status["nodes"] = nodes
    annotations = {"workflows.argoproj.io/pod-name-format": "v2"}
    return {"metadata": {"name": "reid-x1", "namespace": "team", "annotations": annotations}, "status": status}
