"""The manifests of k8s/ as `kubectl kustomize` renders them, and the secrets that its script draws."""

import functools
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("overlays/kind", "overlays/gpu")
COPY = ("copy/data.yaml", "copy/models.yaml")
RENDERED = (*OVERLAYS, "base", "pipeline", "triton/cpu", "triton/gpu")
Manifest = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """Of a folder, or of a file that is applied as it is."""
    if folder.endswith(".yaml"):
        return tuple(yaml.safe_load_all((K8S / folder).read_text(encoding="utf-8")))
    if shutil.which("kubectl") is None:
        pytest.fail("no kubectl here: apt-get install kubernetes-client (any version from 1.20 will do)")
    done = subprocess.run(["kubectl", "kustomize", str(K8S / folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


def of_kind(folder: str, kind: str) -> list[Manifest]:
    return [manifest for manifest in rendered(folder) if manifest["kind"] == kind]


def named(folder: str, kind: str) -> set[tuple[str, str]]:
    """(namespace, name) of every manifest of this kind."""
    return {(entry["metadata"].get("namespace", ""), entry["metadata"]["name"]) for entry in of_kind(folder, kind)}


def pods(folder: str) -> Iterator[tuple[str, str, Manifest]]:
    """Namespace, name and pod template of every workload; a bare pod is its own template."""
    for manifest in rendered(folder):
        template = manifest if manifest["kind"] == "Pod" else manifest.get("spec", {}).get("template")
        if template:
            yield manifest["metadata"]["namespace"], manifest["metadata"]["name"], template


def containers(folder: str) -> Iterator[tuple[str, Manifest]]:
    """ "workload/container" and the container, init containers too."""
    for _, name, template in pods(folder):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            yield f"{name}/{container['name']}", container


@functools.cache
def secrets() -> dict[tuple[str, str], Manifest]:
    """What secrets.sh would apply: (namespace, name) -> values."""
    nowhere = {**os.environ, "KUBECONFIG": "/dev/null"}
    done = subprocess.run(["sh", str(K8S / "secrets.sh")], capture_output=True, text=True, check=True, env=nowhere)
    return {
        (entry["metadata"]["namespace"], entry["metadata"]["name"]): entry["stringData"]
        for entry in yaml.safe_load_all(done.stdout)
    }
