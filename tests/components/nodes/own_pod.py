"""The pod of a train stage, as the API server of Kubernetes 1.36 shows it under KFP 2.17.0 and Argo 4.0.5."""

from typing import Any

RUN_ID = "00d8804d-df10-4c2e-8c3c-ed04e9120898"
POD = "person-reid-x7k2p-system-container-impl-3462346754"
IMAGE = "registry/reid/torch@sha256:8d31fb55e50135d5f5b538658f2b32181cc2923508f0e00c01dabb09de76e59f"
WORKFLOW_UID = "2008d7b0-4bdc-4514-b79e-d93f5d10c3ee"
SECURITY = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}
SECRETS = [
    {
        "name": f"REID_MLFLOW_TRACKING_{part}",
        "valueFrom": {"secretKeyRef": {"name": "reid-mlflow", "key": part.lower(), "optional": True}},
    }
    for part in ("USERNAME", "PASSWORD")
] + [
    {
        "name": "REID_ENCRYPTION_KEY",
        "valueFrom": {"secretKeyRef": {"name": "reid-encryption", "key": "key", "optional": True}},
    }
]
ADDRESS = {
    "name": "REID_MLFLOW_TRACKING_URI",
    "valueFrom": {"configMapKeyRef": {"name": "reid-mlflow", "key": "tracking-uri", "optional": True}},
}
TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def _field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def _environment() -> list[dict[str, Any]]:
    argo = {
        "ARGO_CONTAINER_NAME": "main",
        "ARGO_NODE_ID": "person-reid-x7k2p-3462346754",
        "ARGO_INCLUDE_SCRIPT_OUTPUT": "false",
        "ARGO_DEADLINE": "0001-01-01T00:00:00Z",
    }
    return [
        _field("KFP_POD_NAME", "metadata.name"),
        _field("KFP_POD_UID", "metadata.uid"),
        {"name": "REID_WORK_DIR", "value": "/work"},
        {"name": "REID_NODES", "value": "{}"},
        _field("KFP_RUN_ID", "metadata.labels['pipeline/runid']"),
        ADDRESS,
        *SECRETS,
        {"name": "HTTPS_PROXY", "value": "http://proxy:3128"},
        *({"name": name, "value": value} for name, value in argo.items()),
    ]


def own_pod() -> dict[str, Any]:
    """The pod."""
    scratch = ("kfp-launcher", "gcs-scratch", "s3-scratch", "minio-scratch", "dot-local-scratch", "var-run-argo")
    owner = {"apiVersion": "argoproj.io/v1alpha1", "kind": "Workflow", "name": "person-reid-x7k2p", "uid": WORKFLOW_UID}
    token = {"name": "kube-api-access-dlwp9", "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount"}
    mounts = {"shm": "/dev/shm", "reid-data": "/data", "reid-work": "/work"}
    main = {
        "name": "main",
        "image": IMAGE,
        "command": ["/var/run/argo/argoexec", "emissary", "--", "/kfp-launcher/launch"],
        "args": ["python3", "-m", "components.entry", "train"],
        "env": _environment(),
        "envFrom": [{"configMapRef": {"name": "metadata-grpc-configmap", "optional": True}}],
        "resources": {"limits": {"memory": "2G"}, "requests": {"cpu": "250m", "memory": "512M"}},
        "securityContext": SECURITY,
        "volumeMounts": [
            *({"name": name, "mountPath": f"/{name}"} for name in scratch),
            *({"name": name, "mountPath": path} for name, path in mounts.items()),
            {**token, "readOnly": True},
        ],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": POD,
            "namespace": "kubeflow",
            "labels": {"pipeline/runid": RUN_ID, "workflows.argoproj.io/workflow": "person-reid-x7k2p"},
            "ownerReferences": [{**owner, "controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {
            "activeDeadlineSeconds": 604800,
            "containers": [{"name": "wait", "image": "quay.io/argoproj/argoexec:v4.0.5"}, main],
            "imagePullSecrets": [{"name": "registry"}],
            "nodeSelector": {"pool": "reid"},
            "restartPolicy": "Never",
            "securityContext": {"seccompProfile": {"type": "RuntimeDefault"}},
            "serviceAccountName": "reid-pipeline",
            "tolerations": [
                {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute"},
                TOLERATION,
            ],
            "volumes": [
                *({"name": name, "emptyDir": {}} for name in scratch),
                {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "2Gi"}},
                {"name": "reid-data", "persistentVolumeClaim": {"claimName": "reid-data"}},
                {"name": "reid-work", "persistentVolumeClaim": {"claimName": "reid-work"}},
                {"name": "mlpipeline-minio-artifact", "secret": {"secretName": "mlpipeline-minio-artifact"}},
                {"name": "kube-api-access-dlwp9", "projected": {"sources": []}},
            ],
        },
    }
