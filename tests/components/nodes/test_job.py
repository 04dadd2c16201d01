"""The TrainJob of a training on several nodes, held to the schema that Kubeflow Trainer 2.3.0 publishes."""

import copy
import json
import re
from typing import Any

import pytest
from kubeflow_trainer_api.models import TrainerV1alpha1TrainJob

from components.nodes.job import claims, job_name, train_job
from components.nodes.settings import Nodes
from tests.components.nodes.crd import faults
from tests.components.nodes.own_pod import ADDRESS, IMAGE, RUN_ID, SECRETS, SECURITY, TOLERATION, WORKFLOW_UID, own_pod

COMMAND = ["python3", "-m", "components.nodes.node", f"/work/{RUN_ID}/train/request.json"]
SIZE = {
    "requests": {"cpu": "250m", "memory": "9G", "nvidia.com/gpu": "2"},
    "limits": {"memory": "24G", "nvidia.com/gpu": "2"},
}
NODES = Nodes(count=3, gpus=2, resources=SIZE, node_selector={"gpu": "h100"})


def job(pod: dict[str, Any] | None = None, nodes: Nodes = NODES) -> dict[str, Any]:
    return train_job(
        pod or own_pod(),
        name=job_name(RUN_ID),
        run_id=RUN_ID,
        nodes=nodes,
        runtime_kind="ClusterTrainingRuntime",
        processes=2,
        command=COMMAND,
    )


def pod_patch(made: dict[str, Any]) -> dict[str, Any]:
    (patch,) = made["spec"]["runtimePatches"]
    (replicated,) = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    assert replicated["name"] == "node"
    found: dict[str, Any] = replicated["template"]["spec"]["template"]
    return found


def test_the_nodes_are_pods_like_the_one_of_the_stage() -> None:
    made = job()
    assert made["spec"]["runtimeRef"] == {
        "name": "torch-distributed",
        "kind": "ClusterTrainingRuntime",
        "apiGroup": "trainer.kubeflow.org",
    }
    assert made["spec"]["trainer"] == {
        "image": IMAGE,
        "command": COMMAND,
        "env": [
            {"name": "REID_WORK_DIR", "value": "/work"},
            ADDRESS,
            *SECRETS,
            {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
            {"name": "KFP_RUN_ID", "value": RUN_ID},
        ],
        "numNodes": 3,
        "numProcPerNode": 2,
        "resourcesPerNode": SIZE,
    }
    assert made["spec"]["activeDeadlineSeconds"] == 604800
    assert pod_patch(made) == {
        "metadata": {"labels": {"pipeline/runid": RUN_ID}, "annotations": {"sidecar.istio.io/inject": "false"}},
        "spec": {
            "serviceAccountName": "reid-pipeline",
            "volumes": [
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                {"name": "reid-data", "persistentVolumeClaim": {"claimName": "reid-data"}},
                {"name": "reid-work", "persistentVolumeClaim": {"claimName": "reid-work"}},
            ],
            "containers": [
                {
                    "name": "node",
                    "volumeMounts": [
                        {"name": "shm", "mountPath": "/dev/shm"},
                        {"name": "reid-data", "mountPath": "/data"},
                        {"name": "reid-work", "mountPath": "/work"},
                    ],
                    "securityContext": SECURITY,
                }
            ],
            "imagePullSecrets": [{"name": "registry"}],
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "nodeSelector": {"pool": "reid", "gpu": "h100"},
            "tolerations": [TOLERATION],
        },
    }
    assert claims(own_pod()) == ["reid-data", "reid-work"]


def test_it_belongs_to_the_workflow_and_so_outlives_the_pod_of_the_stage() -> None:
    made = job()
    assert made["metadata"] == {
        "name": f"reid-{RUN_ID}",
        "labels": {"pipeline/runid": RUN_ID},
        "ownerReferences": [
            {
                "apiVersion": "argoproj.io/v1alpha1",
                "kind": "Workflow",
                "name": "person-reid-x7k2p",
                "uid": WORKFLOW_UID,
            }
        ],
    }


def bare_pod() -> dict[str, Any]:
    """A pod with nothing in it that can be left out."""
    (main,) = (one for one in own_pod()["spec"]["containers"] if one["name"] == "main")
    return {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "main", "image": main["image"]}]}}


@pytest.mark.parametrize(
    ("pod", "nodes"), [(own_pod(), NODES), (bare_pod(), Nodes(count=2, resources={"limits": {"memory": "1G"}}))]
)
def test_it_keeps_to_the_published_schema_and_the_sdk_reads_and_writes_it_without_loss(
    pod: dict[str, Any], nodes: Nodes
) -> None:
    made = job(pod, nodes)
    assert list(faults(made)) == []
    read = TrainerV1alpha1TrainJob.from_dict(copy.deepcopy(made))
    assert read is not None
    assert json.loads(read.to_json()) == made
    # what the schema holds as expressions, and Trainer's webhook refuses
    assert re.fullmatch("[a-z]([-a-z0-9]*[a-z0-9])?", made["metadata"]["name"])
    assert len(made["metadata"]["name"]) <= 48  # a pod appends -node-0-00-xxxxx
    assert re.fullmatch("[a-z.]+/[a-z]+", made["spec"]["runtimePatches"][0]["manager"])
    assert not [entry for entry in made["spec"]["trainer"]["env"] if entry["name"].startswith("PET_")]
    assert "env" not in pod_patch(made)["spec"]["containers"][0]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (lambda spec: spec["trainer"].update(numNodes="2"), "job.spec.trainer.numNodes: '2' is no integer"),
        (lambda spec: spec["trainer"].update(replicas=2), "job.spec.trainer.replicas: unknown"),
        (lambda spec: spec.update(podTemplateOverrides=[]), "job.spec.podTemplateOverrides: unknown"),
        (lambda spec: spec["trainer"]["env"].append(ADDRESS),
         "job.spec.trainer.env: ('REID_MLFLOW_TRACKING_URI',) twice"),
        (lambda spec: spec["trainer"]["resourcesPerNode"]["limits"].update(memory="much"),
         "job.spec.trainer.resourcesPerNode.limits.memory: 'much' is no quantity"),
        (lambda spec: spec["runtimeRef"].pop("name"), "job.spec.runtimeRef: no name"),
        (lambda spec: spec.update(activeDeadlineSeconds=0), "job.spec.activeDeadlineSeconds: 0 is out of range"),
    ],
)  # fmt: skip
def test_the_schema_here_finds_what_the_api_server_refuses_or_drops(change: Any, fault: str) -> None:
    made = job()
    change(made["spec"])
    assert list(faults(made)) == [fault]


def test_a_long_run_id_gives_a_name_that_leaves_room_for_the_pods() -> None:
    assert job_name("a" * 60) == "reid-" + 43 * "a"
    assert job_name("a" * 42 + "-b") == "reid-" + 42 * "a"


def test_what_the_pipeline_was_compiled_for_arrives_as_it_was() -> None:
    assert Nodes.from_environment({"REID_NODES": NODES.as_text()}) == NODES
    assert Nodes.from_environment({}) is None


@pytest.mark.parametrize(
    ("num_nodes", "gpus", "refusal"),
    [
        (3, "2", ""),
        (2, "2", "train.num_nodes: 2; this pipeline was compiled for 3 nodes"),
        (3, "4", "pipeline parameter gpus: 4; this pipeline was compiled for 2 GPUs in each node"),
        (3, "", "pipeline parameter gpus: 0; this pipeline was compiled for 2 GPUs in each node"),
    ],
)
def test_other_nodes_than_it_was_compiled_for_are_refused(num_nodes: int, gpus: str, refusal: str) -> None:
    assert NODES.refusal(num_nodes, {"gpus": gpus}) == refusal
    assert NODES.refusal(num_nodes, {}) == (refusal if num_nodes != 3 else "")  # train has no such parameter
