"""Follows a TrainJob to its end, and says in the log what its pods wait for.

The job itself has no state while it runs, so what the user wants to know is read from the pods: that no machine has
room, that the image cannot be pulled, that a node was lost or started again.
"""

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from components.nodes.cluster import Trainer, Unavailable
from components.nodes.files import USER_ERROR
from components.nodes.job import NODE, Object

logger = logging.getLogger(__name__)

INDEX = "batch.kubernetes.io/job-completion-index"
"""The label of a pod that holds its node's number."""
COMPLETE, FAILED, SUSPENDED = "Complete", "Failed", "Suspended"
POLL_S = 3.0
STUCK = {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "CreateContainerConfigError", "CreateContainerError"}
"""Reasons for which a container waits that seldom go by themselves; a volume that is being mounted has another one."""


def pause() -> None:
    """Waits until it is time to ask again."""
    time.sleep(POLL_S)


@dataclass(frozen=True)
class End:
    """How a TrainJob ended."""

    state: str
    """Complete; Failed; "" if the job is gone."""
    why: str = ""
    """Kubernetes' own words."""


def condition(job: Object, kind: str) -> Object | None:
    """A condition of the job's that holds now; None if it does not."""
    for found in job.get("status", {}).get("conditions", ()):
        if found["type"] == kind and found["status"] == "True":
            return dict(found)
    return None


def end_of(job: Object) -> End | None:
    """How the job ended; None if it has not."""
    for kind in (COMPLETE, FAILED):
        if found := condition(job, kind):
            return End(kind, str(found.get("message") or found.get("reason", "")))
    return None


@dataclass
class Follower:
    """Asks for the job and its pods again and again; what was said once is not said again."""

    trainer: Trainer
    name: str
    node_0: Callable[[str], None]
    """Called with the name of the pod that is node 0 now."""
    said: dict[str, str] = field(default_factory=dict)
    pods: dict[int, str] = field(default_factory=dict)
    """Node -> its pod."""

    def to_its_end(self) -> End:
        """Waits for the end; a node's error that the user can correct ends it, for it would only be started again."""
        while True:
            try:
                if ended := self._look():
                    return ended
                self.said.pop("api", None)
            except Unavailable as error:
                self._say("api", f"Kubernetes does not answer, asking again: {error}")
            pause()

    def _look(self) -> End | None:
        job = self.trainer.job(self.name)
        if job is None or job["metadata"].get("deletionTimestamp"):
            return End("", "it was deleted")
        pods = self.trainer.pods(self.name)
        for node, pod in sorted(_newest_of_each(pods).items()):
            self._look_at(node, pod)
            if _exit_status(pod) == USER_ERROR:
                return End(FAILED, f"node {node} ended with exit status {USER_ERROR}")
        if condition(job, SUSPENDED):
            self._say("suspended", f"TrainJob {self.name} is suspended: a queue has not admitted it yet")
        return end_of(job)

    def _look_at(self, node: int, pod: Object) -> None:
        """Says what is new about a node."""
        name = pod["metadata"]["name"]
        if node in self.pods and self.pods[node] != name:
            logger.warning("node %d: pod %s is gone; %s takes its place", node, self.pods[node], name)
        self.pods[node] = name
        if node == 0:
            self.node_0(name)
        for reason in _waits_for(pod):
            self._say(f"node {node}", f"node {node} waits: {reason}")
        state = _container(pod)
        if restarts := state.get("restartCount", 0):
            status = state.get("lastState", {}).get("terminated", {}).get("exitCode", "?")
            self._say(f"restart {name}", f"node {node} ended with exit status {status}; started again ({restarts})")
        if "running" in state.get("state", {}):
            self._say(f"running {name}", f"node {node} runs: pod {name} on {pod['spec'].get('nodeName', '?')}")

    def _say(self, about: str, text: str) -> None:
        if self.said.get(about) != text:
            self.said[about] = text
            logger.info("%s", text)


def _newest_of_each(pods: list[Object]) -> dict[int, Object]:
    """Node -> its pod, the newest if there are several: a lost one may be there for a while."""
    found: dict[int, Object] = {}
    for pod in pods:
        number = pod["metadata"].get("labels", {}).get(INDEX, "")
        if number.isdecimal():
            found.setdefault(int(number), pod)
    return found


def _container(pod: Object) -> Object:
    """The state of the pod's training container; empty if it has none yet."""
    states = pod.get("status", {}).get("containerStatuses", ())
    return next((state for state in states if state["name"] == NODE), {})


def _exit_status(pod: Object) -> int | None:
    """With which status the container ended, now or before it was started again; None if it never did."""
    state = _container(pod)
    for part in (state.get("state", {}), state.get("lastState", {})):
        if ended := part.get("terminated"):
            return int(ended["exitCode"])
    return None


def _waits_for(pod: Object) -> Iterator[str]:
    """Why a pod has no machine, or its container does not start."""
    for found in pod.get("status", {}).get("conditions", ()):
        if found["type"] == "PodScheduled" and found["status"] == "False":
            yield str(found.get("message") or found.get("reason"))
    waiting = _container(pod).get("state", {}).get("waiting", {})
    if waiting.get("reason") in STUCK:
        yield f"{waiting['reason']}: {waiting.get('message', '')}"
