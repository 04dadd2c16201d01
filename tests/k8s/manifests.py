"""The manifests of k8s/ as `kubectl kustomize` renders them, and the secrets that its script draws."""

import functools
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
K8S = ROOT / "k8s"
OVERLAYS = ("overlays/kind", "overlays/gpu")
COPY = ("copy/data.yaml", "copy/models.yaml")
RENDERED = (*OVERLAYS, "overlays/trainer", "base", "pipeline", "trainer", "triton/cpu", "triton/gpu")
Manifest = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Manifest, ...]:
    """Of a folder, or of a file that is applied as it is."""
    if folder.endswith(".yaml"):
        return tuple(yaml.safe_load_all((K8S / folder).read_text(encoding="utf-8")))
    if shutil.which("kubectl") is None:
        pytest.fail("no kubectl here: apt-get install kubernetes-client (any version from 1.20 will do)")
    with tempfile.TemporaryDirectory() as copies:
        root = _with_bases(Path(copies)) if _older_than_1_21() else K8S
        done = subprocess.run(["kubectl", "kustomize", str(root / folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "deprecated" not in done.stderr
    return tuple(yaml.safe_load_all(done.stdout))


@functools.cache
def _older_than_1_21() -> bool:
    """Whether kubectl is one that takes no folders as resources, as Debian 12 has it."""
    asked = ["kubectl", "version", "--client", "--output=json"]
    version = json.loads(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)["clientVersion"]
    return (int(version["major"]), int(version["minor"].rstrip("+"))) < (1, 21)


def _with_bases(copies: Path) -> Path:
    """A copy of k8s/ in which folders stand under `bases`, the word that such a kubectl knows."""
    root = Path(shutil.copytree(K8S, copies / "k8s"))
    for path in root.rglob("kustomization.yaml"):
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
        folders = [entry for entry in values["resources"] if not entry.endswith(".yaml")]
        values["resources"] = [entry for entry in values["resources"] if entry.endswith(".yaml")]
        path.write_text(yaml.safe_dump({**values, "bases": folders}), encoding="utf-8")
    return root


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
