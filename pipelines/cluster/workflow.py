"""What Argo, the engine below Kubeflow Pipelines, says of a run's pods: what they wait for, and why they failed.

The v2beta1 API has states only. The older v1beta1 API, which Kubeflow Pipelines 2 still answers, also gives Argo's
workflow as it is now: a tree of nodes. A stage is two of them, `root.train-driver` and `root.train.executor`, and each
try of either is a pod of its own, `root(0).train(0).executor(1)`.
"""

import base64
import json
import re
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.cluster.api import Cluster

TASK = re.compile(r"root(?:\(\d+\))?\.(?P<task>[^.()]+)(?:\(\d+\))?(?P<executor>\.executor)?(?:\(\d+\))?")
"""A task in the name of a node, after the workflow's own name."""
DRIVER = "-driver"
STARTING = {"", "ContainerCreating", "PodInitializing"}
"""Messages of a pod that has its node and is on its way; an image may still be on its way, too."""
OF_THE_LAUNCHER = re.compile(r"[IWEF]\d{4} [\d:.]+ +\d+ \S+\.go:\d+\] |time=\S+ level=|Error: exit status \d+$")
"""The beginning of a line that KFP's launcher or Argo writes into a stage's log."""
COMPLAINT = re.compile(r"[EF]\d{4} [\d:.]+ +\d+ \S+\.go:\d+\] ")
"""The beginning of a line by which KFP's driver says why it fails."""
COLOUR = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
LOG_LINES = 20
MESSAGE_CHARS = 240


@dataclass(frozen=True)
class Pod:
    """One try of a stage's container, or of the driver that prepares it."""

    stage: str
    """As KFP names it, with hyphens."""
    driver: bool
    phase: str
    """Pending, Running, Succeeded, Failed or Error."""
    message: str
    started: str
    node: str
    """The id of its node in the workflow."""
    name: str

    @property
    def failed(self) -> bool:
        """Whether it ended badly."""
        return self.phase in {"Failed", "Error"}

    @property
    def waits(self) -> str:
        """What it waits for; "" if it does not."""
        if self.phase != "Pending":
            return ""
        if self.message in STARTING:
            return "waiting for its pod"
        kind, _, rest = self.message.partition(": ")
        if kind == "Unschedulable":
            return f"waiting for a node: {shortened(rest.partition('. ')[0])}"
        what = "waiting for its image" if "Image" in kind else "waiting"
        return f"{what}: {shortened(self.message)}"


@dataclass(frozen=True)
class Workflow:
    """A run as Argo sees it."""

    namespace: str
    message: str
    """Why it is over; "" if it goes on or succeeded."""
    pods: Mapping[tuple[str, bool], Pod]
    """The latest pod of each stage, and of each driver (True)."""
    ended: Mapping[tuple[str, bool], str]
    """What is said of a stage, or of its driver, over all of its tries, e.g. that there are no more of them."""
    cached: frozenset[str]
    """Stages whose earlier result KFP's cache gave."""

    def failed(self) -> list[Pod]:
        """The pods that the run failed by, in the order in which they started."""
        return sorted((pod for pod in self.pods.values() if pod.failed), key=lambda pod: pod.started)


def shortened(text: str) -> str:
    """The text on one line, cut if it is long."""
    line = " ".join(text.split())
    return line if len(line) <= MESSAGE_CHARS else f"{line[:MESSAGE_CHARS].rstrip()} …"


def workflow_of(cluster: Cluster, run_id: str) -> Workflow | None:
    """The workflow of a run; None if the installation does not give it."""
    answer = cluster.ask(f"{cluster.endpoint.url}/apis/v1beta1/runs/{run_id}")
    if answer is None:
        return None
    try:
        return read_workflow(json.loads(json.loads(answer[1])["pipeline_runtime"]["workflow_manifest"]))
    except (ValueError, KeyError, TypeError, zlib.error):
        return None


def read_workflow(manifest: Mapping[str, Any]) -> Workflow:
    """The workflow of Argo's own manifest. Raises KeyError, ValueError or zlib.error if it holds no nodes."""
    about, status = manifest["metadata"], manifest["status"]
    nodes = status.get("nodes")
    if not nodes:  # a large workflow's are compressed
        nodes = json.loads(zlib.decompress(base64.b64decode(status["compressedNodes"]), wbits=31))
    named_by_node = about.get("annotations", {}).get("workflows.argoproj.io/pod-name-format") == "v1"
    pods: dict[tuple[str, bool], Pod] = {}
    ended: dict[tuple[str, bool], str] = {}
    cached = set()
    for key, node in sorted(nodes.items(), key=lambda item: str(item[1].get("startedAt") or "")):
        found = TASK.fullmatch(re.sub(r"^(\(\d+\))?\.", "", node["name"].removeprefix(about["name"])))
        if not found:
            continue
        stage, driver = found["task"].removesuffix(DRIVER), found["task"].endswith(DRIVER)
        said = {row["name"]: row.get("value") for row in node.get("outputs", {}).get("parameters") or ()}
        if driver and said.get("cached-decision") == "true":
            cached.add(stage)
        if node["type"] == "Retry" and (driver or found["executor"]) and node.get("message"):
            ended[stage, driver] = node["message"]
        if node["type"] != "Pod":
            continue
        number = key.rpartition("-")[2]
        name = key if named_by_node else f"{about['name']}-{node.get('templateName', '')}-{number}"
        started, message = str(node.get("startedAt") or ""), node.get("message") or ""
        pods[stage, driver] = Pod(stage, driver, node["phase"], message, started, node=key, name=name)
    return Workflow(
        about.get("namespace", ""), status.get("message") or "", pods=pods, ended=ended, cached=frozenset(cached)
    )


def last_lines(cluster: Cluster, run_id: str, pod: Pod, *, namespace: str) -> list[str]:
    """The last lines that the pod itself wrote, without those of KFP's launcher; none if its log cannot be read.

    The log is asked for where it was archived, then at the pod, by the API and by the web server beside it.
    """
    return _of_the_stage(
        _archived_log(cluster, run_id, pod) or _log_at_pod(cluster, run_id, pod, namespace), pod.driver
    )


def _archived_log(cluster: Cluster, run_id: str, pod: Pod) -> str:
    url = f"{cluster.endpoint.url}/apis/v2beta1/runs/{run_id}/nodes/{pod.node}/artifacts/main-logs:read"
    answer = cluster.ask(url)
    try:
        return base64.b64decode(json.loads(answer[1])["data"]).decode(errors="replace") if answer else ""
    except (ValueError, KeyError, TypeError):
        return ""


def _log_at_pod(cluster: Cluster, run_id: str, pod: Pod, namespace: str) -> str:
    endpoint = cluster.endpoint
    for url in (
        f"{endpoint.url}/apis/v1alpha1/runs/{run_id}/nodes/{pod.name}/log",
        f"{endpoint.ui_url or endpoint.url}/k8s/pod/logs?podname={pod.name}&podnamespace={namespace}&runid={run_id}",
    ):
        kind, body = cluster.ask(url, kind="text/plain") or ("", b"")
        # the API answers an error with status 200, and a web server what it does not know with a page
        if body and "html" not in kind and not body.startswith(b'{"error_message"'):
            return body.decode(errors="replace")
    return ""


def _of_the_stage(log: str, driver: bool) -> list[str]:
    lines = [COLOUR.sub("", line).rstrip() for line in log.splitlines()]
    if driver:
        complaints = [COMPLAINT.sub("", line, count=1) for line in lines if COMPLAINT.match(line)]
        return complaints[-3:] or lines[-3:]
    return [line for line in lines if line and not OF_THE_LAUNCHER.match(line)][-LOG_LINES:]
