"""The Kubernetes API as the train stage uses it, through the client of the Kubeflow SDK, and its refusals as errors.

The SDK's own `get_job` and `get_job_logs` are not used: they hide the reason of a failure, and a follower that is
called every few seconds needs the pods' events and the lines since the last one.
"""

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import datetime
from typing import Any

from kubeflow.trainer import TrainerClient
from kubeflow.trainer.constants import constants
from kubernetes.client import ApiException
from kubernetes.config import ConfigException
from urllib3.exceptions import HTTPError

from components.nodes.job import NODE, Object
from reid.errors import PipelineError

TIMEOUT_S = (5.0, 60.0)
"""Seconds for the connection and for each answer."""
NOT_FOUND, CONFLICT, FORBIDDEN = 404, 409, 403
TRAINJOBS = (constants.GROUP, constants.VERSION)
RIGHTS = 'kubectl apply --kustomize k8s/trainer; see "Several nodes" in docs/kubernetes.md'
NO_SUCH_PATH = "404 page not found"
"""The answer to a path of a kind that is not installed; that to a missing object is JSON."""


class Unavailable(Exception):
    """The API did not answer, or answered that it cannot just now; asking again may help."""


class NoRight(PipelineError):
    """The stage's account may not do this."""


class Trainer:
    """The namespace of the train stage's own pod."""

    def __init__(self) -> None:
        """Connects as the pod's account, or outside of a cluster as the user's kubectl."""
        logging.getLogger("kubeflow").setLevel(logging.ERROR)  # it warns if Trainer has another namespace than usual
        try:
            self._client = TrainerClient()
        except ConfigException as error:
            raise PipelineError(
                f"train.num_nodes: found no Kubernetes API to start the nodes with ({error})\n"
                "  want: a pod of Kubeflow Pipelines"
            ) from None
        self._backend: Any = self._client.backend
        self.namespace: str = self._backend.namespace

    def pod(self, name: str) -> Object:
        """A pod of the namespace."""
        return self._read(
            f"pod {name}", "get pods", self._backend.core_api.read_namespaced_pod, name=name, namespace=self.namespace
        )

    def access_modes(self, claim: str) -> list[str]:
        """How the volume of a PersistentVolumeClaim can be mounted."""
        found = self._read(
            f"PersistentVolumeClaim {claim}",
            "get persistentvolumeclaims",
            self._backend.core_api.read_namespaced_persistent_volume_claim,
            name=claim,
            namespace=self.namespace,
        )
        modes: list[str] = found.get("status", {}).get("accessModes") or found["spec"].get("accessModes", [])
        return modes

    def runtime_kind(self, name: str) -> str:
        """Whether a training runtime is one of the namespace or of the cluster. Raises PipelineError if it is none."""
        try:
            return str(self._client.get_runtime(name).kind.value)
        except Exception as error:  # the SDK raises a bare RuntimeError for all of them
            cause = error.__cause__
            if isinstance(cause, ApiException) and cause.status == NOT_FOUND and NO_SUCH_PATH not in str(cause.body):
                raise PipelineError(
                    f"training_runtime: no TrainingRuntime or ClusterTrainingRuntime {name}\n"
                    "  want: one for PyTorch whose replicated job and container are named node; Kubeflow Trainer brings"
                    " torch-distributed\n  look: kubectl get clustertrainingruntimes"
                ) from None
            raise _explained(
                cause if isinstance(cause, Exception) else error,
                doing=f"training runtime {name}",
                right="get trainingruntimes and clustertrainingruntimes",
            ) from None

    def job(self, name: str) -> Object | None:
        """The TrainJob of this name; None if there is none."""
        try:
            found: Object = self._call(
                f"TrainJob {name}", "get trainjobs", self._custom.get_namespaced_custom_object, *self._jobs, name
            )
        except _Missing:
            return None
        return found

    def create(self, job: Object) -> bool:
        """Creates a TrainJob; returns False if there is one of its name already."""
        name = job["metadata"]["name"]
        try:
            self._call(
                f"TrainJob {name}", "create trainjobs", self._custom.create_namespaced_custom_object, *self._jobs, job
            )
        except _Conflict:
            return False
        return True

    def delete(self, name: str) -> None:
        """Deletes a TrainJob and its pods, which get SIGTERM and 30 seconds; nothing if it is gone already."""
        with suppress(_Missing):
            self._call(
                f"TrainJob {name}",
                "delete trainjobs",
                self._custom.delete_namespaced_custom_object,
                *self._jobs,
                name,
                propagation_policy="Foreground",
            )

    def pods(self, job: str) -> list[Object]:
        """The pods of a TrainJob's nodes, the newest first."""
        listed = self._read(
            f"pods of TrainJob {job}",
            "list pods",
            self._backend.core_api.list_namespaced_pod,
            namespace=self.namespace,
            label_selector=f"{constants.JOBSET_NAME_LABEL}={job},{constants.JOBSET_RJOB_NAME_LABEL}={NODE}",
        )
        found: list[Object] = listed["items"]
        return sorted(found, key=lambda pod: str(pod["metadata"]["creationTimestamp"]), reverse=True)

    def log(self, pod: str, *, since: datetime | None, follow: bool) -> Iterator[str]:
        """The lines of a node's log, each after its time; with `follow`, until its container ends."""
        more: Object = {}
        if since:
            more["since_seconds"] = int((datetime.now(since.tzinfo) - since).total_seconds()) + 2
        try:
            answer = self._backend.core_api.read_namespaced_pod_log(
                name=pod,
                namespace=self.namespace,
                container=NODE,
                follow=follow,
                timestamps=True,
                _preload_content=False,
                _request_timeout=(TIMEOUT_S[0], None if follow else TIMEOUT_S[1]),
                **more,
            )
            rest = b""
            for part in answer.stream(64 * 1024, decode_content=True):
                *lines, rest = (rest + part).split(b"\n")
                yield from (line.decode(errors="replace") for line in lines)
            if rest:
                yield rest.decode(errors="replace")
        except (ApiException, HTTPError) as error:
            raise _explained(error, doing=f"log of pod {pod}", right="get pods/log") from error

    @property
    def _custom(self) -> Any:
        return self._backend.custom_api

    @property
    def _jobs(self) -> tuple[str, str, str, str]:
        return *TRAINJOBS, self.namespace, constants.TRAINJOB_PLURAL

    def _read(self, doing: str, right: str, ask: Callable[..., Any], **values: Any) -> Object:
        """An object as the API writes it, not as the client's classes rename it."""
        try:
            found: Object = json.loads(self._call(doing, right, ask, _preload_content=False, **values).data)
        except (_Missing, _Conflict) as error:
            raise PipelineError(f"{doing}: not found in namespace {self.namespace}") from error
        return found

    def _call(self, doing: str, right: str, ask: Callable[..., Any], *positions: Any, **values: Any) -> Any:
        try:
            return ask(*positions, _request_timeout=TIMEOUT_S, **values)
        except (ApiException, HTTPError, OSError) as error:
            raise _explained(error, doing=doing, right=right) from error


class _Missing(Exception):
    """There is no such object."""


class _Conflict(Exception):
    """There is one already."""


def _explained(error: Exception, *, doing: str, right: str) -> Exception:
    """What a failed call means: an error that the user can correct, or one that another try may correct."""
    if not isinstance(error, ApiException) or not error.status or error.status >= 500 or error.status == 429:
        return Unavailable(f"{doing}: {_message(error)}")
    if error.status == NOT_FOUND and NO_SUCH_PATH in str(error.body):
        return PipelineError(
            f"{doing}: Kubeflow Trainer is not installed in this cluster, and train.num_nodes is above 1\n"
            "  want: Kubeflow Trainer 2.3 (https://www.kubeflow.org/docs/components/trainer), or train.num_nodes=1"
        )
    if error.status == NOT_FOUND:
        return _Missing(doing)
    if error.status == CONFLICT:
        return _Conflict(doing)
    if error.status == FORBIDDEN:
        return NoRight(
            f"{doing}: Kubernetes refuses it to the stage's account\n  found: {_message(error)}\n"
            f"  want:  the right to {right}: {RIGHTS}"
        )
    return PipelineError(f"{doing}: Kubernetes refuses it\n  found: {_message(error)}")


def _message(error: Exception) -> str:
    """The sentence of the API's answer."""
    if isinstance(error, ApiException):
        try:
            return str(json.loads(error.body)["message"])
        except (ValueError, TypeError, KeyError):
            return f"{error.status} {error.reason}"
    return str(error) or type(error).__name__
