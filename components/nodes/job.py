"""The TrainJob of a training on several nodes (Kubeflow Trainer 2.3, trainer.kubeflow.org/v1alpha1).

The nodes are pods like the one that submits them: the same image, user, account, volumes, Secrets and tolerations, all
copied from that pod as the API server shows it. What KFP and Argo put into it for themselves is left out.

The SDK's `TrainerClient.train` cannot say all of it: its `CustomTrainerContainer` takes environment variables by value
only (so no reference to a Secret), the same requests as limits, no number of processes and no owner. So this function
returns the whole TrainJob, and the SDK's client submits it (`cluster.py`).
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from components.nodes.settings import Nodes

Object = dict[str, Any]
"""An object of Kubernetes as its API writes it."""
API_VERSION, KIND = "trainer.kubeflow.org/v1alpha1", "TrainJob"
MAIN = "main"
"""The container of a KFP pod that runs the stage."""
NODE = "node"
"""The replicated job of the runtime, and its container."""
MANAGER = "reid.pipeline/train"
"""Who owns the patches of the runtime: a domain and a path."""
RUN_LABEL = "pipeline/runid"
"""The label that KFP puts on the pods of a run; its UI and our own tools find them by it."""
NOT_COPIED = (
    *("ARGO_", "KFP_", "PET_", "METADATA_", "ML_PIPELINE_"),
    *("NAMESPACE", "REID_NODES"),
)
"""How the variables' names begin that KFP and Argo set for themselves, that Trainer sets, or that are set anew."""
ADDED_BY_KUBERNETES = "node.kubernetes.io/"
"""How the keys of the tolerations begin that Kubernetes gives every pod."""
SHARED_MEMORY = "/dev/shm"
NO_SIDECAR = "sidecar.istio.io/inject"
"""KFP sets it to "false"; the nodes need that even more, for the ranks' connections cannot pass through a proxy."""


def job_name(run_id: str) -> str:
    """The name of the run's TrainJob: always the same, so that a restarted stage finds the job that it began.

    It has at most 48 characters, for Kubernetes appends 15 for the pods' names.
    """
    return f"reid-{run_id}"[:48].rstrip("-")


def train_job(
    pod: Object, *, name: str, run_id: str, nodes: Nodes, runtime_kind: str, processes: int, command: Sequence[str]
) -> Object:
    """The TrainJob that runs `command` with `processes` ranks on each of `nodes`.

    `pod` is the pod of the train stage. The job belongs to the Workflow that owns the pod, not to the pod itself: it
    outlives a lost pod, whose successor finds it, and goes when the run is deleted.
    """
    metadata: Object = {"name": name, "labels": {RUN_LABEL: run_id}}
    if owners := [_owner(reference) for reference in pod["metadata"].get("ownerReferences", ())]:
        metadata["ownerReferences"] = owners
    spec: Object = {
        "runtimeRef": {"name": nodes.runtime, "kind": runtime_kind, "apiGroup": "trainer.kubeflow.org"},
        "trainer": {
            "image": _main(pod)["image"],
            "command": list(command),
            "env": [*_environment(pod), {"name": "KFP_RUN_ID", "value": run_id}],
            "numNodes": nodes.count,
            "numProcPerNode": processes,
            "resourcesPerNode": {kind: dict(amounts) for kind, amounts in nodes.resources.items()},
        },
        "runtimePatches": [{"manager": MANAGER, "trainingRuntimeSpec": _runtime_patch(pod, run_id, nodes)}],
    }
    if deadline := pod["spec"].get("activeDeadlineSeconds"):
        spec["activeDeadlineSeconds"] = deadline
    return {"apiVersion": API_VERSION, "kind": KIND, "metadata": metadata, "spec": spec}


def claims(pod: Object) -> list[str]:
    """The PersistentVolumeClaims that the nodes mount."""
    return [volume["persistentVolumeClaim"]["claimName"] for volume in _volumes(pod) if _is_claim(volume)]


def _main(pod: Object) -> Object:
    container: Object = next(one for one in pod["spec"]["containers"] if one["name"] == MAIN)
    return container


def _owner(reference: Object) -> Object:
    """A reference to the owner that needs no further right: not as its controller, and not blocking its deletion."""
    return {key: reference[key] for key in ("apiVersion", "kind", "name", "uid")}


def _environment(pod: Object) -> list[Object]:
    """The variables of the stage; one from a Secret stays a reference to the Secret."""
    return [dict(entry) for entry in _main(pod).get("env", ()) if not entry["name"].startswith(NOT_COPIED)]


def _is_claim(volume: Object) -> bool:
    return "persistentVolumeClaim" in volume


def _mounts(pod: Object) -> list[Object]:
    """Where the stage mounts what the nodes mount too."""
    wanted = {volume["name"] for volume in _volumes(pod)}
    return [dict(mount) for mount in _main(pod).get("volumeMounts", ()) if mount["name"] in wanted]


def _volumes(pod: Object) -> list[Object]:
    """The claims, and the shared memory."""
    shared = {mount["name"] for mount in _main(pod).get("volumeMounts", ()) if mount["mountPath"] == SHARED_MEMORY}
    volumes = pod["spec"].get("volumes", ())
    return [dict(volume) for volume in volumes if _is_claim(volume) or volume["name"] in shared]


def _runtime_patch(pod: Object, run_id: str, nodes: Nodes) -> Object:
    """What the runtime's pods get of the stage's pod; Trainer allows these fields and no others."""
    container = {"name": NODE, "volumeMounts": _mounts(pod), "securityContext": _main(pod).get("securityContext")}
    selector = {**pod["spec"].get("nodeSelector", {}), **nodes.node_selector}
    spec = {
        "serviceAccountName": pod["spec"].get("serviceAccountName"),
        "volumes": _volumes(pod),
        "containers": [_without_gaps(container.items())],
        "imagePullSecrets": pod["spec"].get("imagePullSecrets"),
        "securityContext": pod["spec"].get("securityContext"),
        "nodeSelector": selector,
        "affinity": pod["spec"].get("affinity"),
        "tolerations": list(_tolerations(pod)),
    }
    metadata = {"labels": {RUN_LABEL: run_id}, "annotations": {NO_SIDECAR: "false"}}
    template = {"metadata": metadata, "spec": _without_gaps(spec.items())}
    replicated = {"name": NODE, "template": {"spec": {"template": template}}}
    return {"template": {"spec": {"replicatedJobs": [replicated]}}}


def _without_gaps(fields: Any) -> Object:
    return {name: value for name, value in fields if value}


def _tolerations(pod: Object) -> Iterator[Mapping[str, Any]]:
    for toleration in pod["spec"].get("tolerations", ()):
        if not toleration.get("key", "").startswith(ADDED_BY_KUBERNETES):
            yield toleration
