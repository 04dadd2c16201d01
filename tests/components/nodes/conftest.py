"""A Kubernetes on loopback, and the environment of a pod of the train stage."""

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from kubeflow.common import utils
from kubernetes.config import kube_config

from components.nodes import following, logs
from tests.components.nodes.kubernetes_api import KubernetesApi
from tests.components.nodes.own_pod import POD, RUN_ID


@pytest.fixture
def api(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[KubernetesApi]:
    """The server; a client in this process finds it as kubectl would."""
    served = KubernetesApi()
    kubectl = {
        "current-context": "here",
        "contexts": [{"name": "here", "context": {"cluster": "here", "user": "stage", "namespace": "kubeflow"}}],
        "clusters": [{"name": "here", "cluster": {"server": served.url}}],
        "users": [{"name": "stage", "user": {}}],
    }
    (tmp_path / "kubeconfig").write_text(yaml.safe_dump(kubectl))
    monkeypatch.setattr(kube_config, "KUBE_CONFIG_DEFAULT_LOCATION", str(tmp_path / "kubeconfig"))
    monkeypatch.setattr(utils, "is_running_in_k8s", lambda: False)
    monkeypatch.setattr(following, "POLL_S", 0.02)
    monkeypatch.setattr(logs, "AGAIN_S", 0.02)
    monkeypatch.setenv("KFP_RUN_ID", RUN_ID)
    monkeypatch.setenv("KFP_POD_NAME", POD)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    before = signal.getsignal(signal.SIGTERM)
    yield served
    signal.signal(signal.SIGTERM, before)
    served.close()
