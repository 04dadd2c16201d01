"""The manifests of k8s/, as `kubectl kustomize` renders them."""

import configparser
import functools
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import images
from pipelines.reid_pipeline import compile_pipeline

ROOT = Path(__file__).resolve().parents[1]
K8S = ROOT / "k8s"
OVERLAYS = ("overlays/kind", "overlays/gpu")
RENDERED = (*OVERLAYS, "base", "pipeline", "triton/cpu", "triton/gpu")
Manifest = dict[str, Any]


@functools.cache
def rendered(folder: str) -> tuple[Manifest, ...]:
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
    """Namespace, name and pod template of every workload."""
    for manifest in rendered(folder):
        template = manifest.get("spec", {}).get("template")
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


@pytest.mark.parametrize("folder", RENDERED)
def test_it_renders_and_every_object_is_said_once_and_has_its_namespace(folder: str) -> None:
    names = [
        (entry["kind"], entry["metadata"].get("namespace"), entry["metadata"]["name"]) for entry in rendered(folder)
    ]
    assert names
    assert len(set(names)) == len(names)
    assert {kind for kind, namespace, _ in names if namespace is None} <= {"Namespace"}


def test_every_folder_with_a_kustomization_is_rendered_here() -> None:
    found = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}
    assert found == {*RENDERED, "triton/shared"}


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/kind", "triton/cpu"])
def test_every_image_is_pinned_to_a_version(folder: str) -> None:
    for name, container in containers(folder):
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        assert re.search(r"\d+\.\d+", tag), f"{name}: {container['image']}"


def test_the_mlflow_server_is_of_the_version_that_the_stages_log_with() -> None:
    (wanted,) = re.findall(r"^mlflow==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    found = {container["image"] for name, container in containers("base") if name.startswith("mlflow/")}
    assert found == {f"ghcr.io/mlflow/mlflow:v{wanted}-full"}  # the one with PostgreSQL, S3 and log-in


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/kind", "triton/cpu"])
def test_every_container_has_limits_and_is_restricted(folder: str) -> None:
    for name, container in containers(folder):
        for kind in ("requests", "limits"):
            assert {"cpu", "memory"} <= set(container["resources"][kind]), f"{name}: {kind}"
        security = container["securityContext"]
        assert security["allowPrivilegeEscalation"] is False, name
        assert security["readOnlyRootFilesystem"] is True, name
        assert security["capabilities"] == {"drop": ["ALL"]}, name
        assert not security.get("privileged"), name
    for _, name, template in pods(folder):
        security = template["spec"]["securityContext"]
        assert security["runAsNonRoot"] is True, name
        assert security["runAsUser"] > 0, name
        assert security["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(template["spec"]), name
        assert not [volume for volume in template["spec"]["volumes"] if "hostPath" in volume], name


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/kind", "triton/cpu"])
def test_every_service_container_has_its_probes_on_a_port_that_it_has(folder: str) -> None:
    for _, name, template in pods(folder):
        for container in template["spec"]["containers"]:
            ports = {value for port in container["ports"] for value in (port["containerPort"], port.get("name"))}
            for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
                asked = container[probe].get("httpGet", {}).get("port")
                assert asked is None or asked in ports, f"{name}: {probe}"


@pytest.mark.parametrize("folder", [*OVERLAYS, "triton/cpu"])
def test_selectors_match_the_pods_they_mean(folder: str) -> None:
    labels = {(namespace, name): template["metadata"]["labels"] for namespace, name, template in pods(folder)}
    for manifest in rendered(folder):
        spec, metadata = manifest.get("spec", {}), manifest["metadata"]
        if manifest["kind"] == "Deployment":
            assert spec["selector"]["matchLabels"] == labels[metadata["namespace"], metadata["name"]]
        if manifest["kind"] == "Service":
            meant = labels[metadata["namespace"], metadata["name"]]
            assert spec["selector"].items() <= meant.items()
            (template,) = [pod for _, name, pod in pods(folder) if name == metadata["name"]]
            opened = {port["containerPort"] for one in template["spec"]["containers"] for port in one["ports"]}
            assert {port.get("targetPort", port["port"]) for port in spec["ports"]} <= opened
        if manifest["kind"] == "NetworkPolicy" and spec["podSelector"]:
            assert spec["podSelector"]["matchLabels"] in labels.values()


def test_what_a_policy_lets_through_is_a_port_of_its_pods() -> None:
    services = {entry["metadata"]["name"]: entry for entry in of_kind("overlays/gpu", "Service")}
    for policy in of_kind("overlays/gpu", "NetworkPolicy"):
        opened = {port["port"] for rule in policy["spec"].get("ingress", []) for port in rule["ports"]}
        if policy["spec"]["podSelector"]:
            assert opened == {port["port"] for port in services[policy["metadata"]["name"]]["spec"]["ports"]}
        else:
            assert opened == set()  # the policy that forbids what no other one allows


@pytest.mark.parametrize("folder", [*OVERLAYS, "triton/cpu"])
def test_every_claim_account_and_config_that_a_pod_names_is_there(folder: str) -> None:
    for namespace, name, template in pods(folder):
        spec = template["spec"]
        assert (namespace, spec["serviceAccountName"]) in named(folder, "ServiceAccount"), name
        assert spec["automountServiceAccountToken"] is False, name  # none of them talks to Kubernetes
        for volume in spec["volumes"]:
            if "persistentVolumeClaim" in volume:
                claim = volume["persistentVolumeClaim"]["claimName"]
                assert (namespace, claim) in named(folder, "PersistentVolumeClaim"), name
            if "configMap" in volume:
                assert (namespace, volume["configMap"]["name"]) in named(folder, "ConfigMap"), name
            if "secret" in volume:
                held = secrets()[namespace, volume["secret"]["secretName"]]
                assert {item["key"] for item in volume["secret"]["items"]} <= set(held), name
        mounted = {mount["name"] for one in spec["containers"] for mount in one["volumeMounts"]}
        assert mounted == {volume["name"] for volume in spec["volumes"]}, name


def test_every_secret_that_a_container_reads_is_drawn_and_none_stands_in_a_manifest() -> None:
    for namespace, _, template in pods("overlays/gpu"):
        for container in [*template["spec"].get("initContainers", []), *template["spec"]["containers"]]:
            for variable in container.get("env", []):
                if "valueFrom" in variable:
                    wanted = variable["valueFrom"]["secretKeyRef"]
                    assert wanted["key"] in secrets()[namespace, wanted["name"]]
                else:
                    assert not re.search("PASSWORD|SECRET|ACCESS_KEY", variable["name"])
    for folder in RENDERED:
        assert of_kind(folder, "Secret") == []


def test_secrets_are_drawn_anew_and_agree_where_two_must() -> None:
    drawn = secrets()
    for key in ("username", "password"):
        assert drawn["reid", "mlflow"][key] == drawn["kubeflow", "reid-mlflow"][key]
    store = drawn["reid", "artifact-store"]
    (identity,) = yaml.safe_load(store["s3.json"])["identities"]
    keys = {"accessKey": store["access-key-id"], "secretKey": store["secret-access-key"]}
    assert identity["credentials"] == [keys]
    passwords = {drawn["reid", "postgres"]["password"], drawn["reid", "mlflow"]["password"], *keys.values()}
    assert len(passwords) == 4
    assert all(re.fullmatch("[0-9a-f]{48}", password) for password in passwords)
    secrets.cache_clear()
    assert secrets()["reid", "postgres"] != drawn["reid", "postgres"]


def test_the_pipeline_finds_mlflow_under_the_name_that_the_server_answers_to() -> None:
    (address,) = [entry["data"]["tracking-uri"] for entry in of_kind("pipeline", "ConfigMap")]
    (service,) = [entry for entry in of_kind("base", "Service") if entry["metadata"]["name"] == "mlflow"]
    host = f"mlflow.{service['metadata']['namespace']}.svc.cluster.local:{service['spec']['ports'][0]['port']}"
    assert address == f"http://{host}"
    (command,) = [container["command"] for name, container in containers("base") if name == "mlflow/mlflow"]
    (allowed,) = [word.split("=")[1] for word in command if word.startswith("--allowed-hosts=")]
    assert host in allowed.split(",")


def test_mlflow_knows_the_options_that_its_server_is_started_with() -> None:
    from mlflow.cli import server  # type: ignore[import-not-found]

    (container,) = [container for name, container in containers("base") if name == "mlflow/mlflow"]
    parsed = server.make_context("server", container["command"][2:]).params
    assert (parsed["app_name"], parsed["host"], parsed["port"]) == ("basic-auth", "0.0.0.0", 5000)
    assert parsed["artifacts_destination"] == "s3://mlflow"
    assert parsed["serve_artifacts"]
    (configured,) = of_kind("base", "ConfigMap")
    parser = configparser.ConfigParser()
    parser.read_string(configured["data"]["basic_auth.ini"])
    (address,) = [one["value"] for one in container["env"] if one["name"] == "MLFLOW_BACKEND_STORE_URI"]
    assert parser["mlflow"]["database_uri"] == address
    assert parser["mlflow"]["default_permission"] == "NO_PERMISSIONS"


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """What the compiled pipeline wants from the cluster: kind -> names."""
    file = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(file)
    pipeline, platform = yaml.safe_load_all(file.read_text(encoding="utf-8"))
    parameters = pipeline["root"]["inputDefinitions"]["parameters"]
    found: dict[str, set[str]] = {"PersistentVolumeClaim": set(), "Secret": set(), "ConfigMap": set()}
    for executor in platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"].values():
        for mount in executor.get("pvcMount", []):
            given = mount["pvcNameParameter"]
            name = given.get("componentInputParameter")
            found["PersistentVolumeClaim"].add(
                parameters[name.removeprefix("pipelinechannel--")]["defaultValue"]
                if name
                else given["runtimeValue"]["constant"]
            )
        for kind, field, name in (("Secret", "secretAsEnv", "secret"), ("ConfigMap", "configMapAsEnv", "configMap")):
            for entry in executor.get(field, []):
                value = entry[f"{name}NameParameter"]["runtimeValue"]["constant"]
                found[kind] |= {f"{value}/{one[f'{name}Key']}" for one in entry["keyToEnv"]}
    return found


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_the_claims_secrets_and_settings_that_the_compiled_pipeline_names_are_there(
    overlay: str, asked: dict[str, set[str]]
) -> None:
    assert "reid-data" in asked["PersistentVolumeClaim"]
    assert {("kubeflow", name) for name in asked["PersistentVolumeClaim"]} <= named(overlay, "PersistentVolumeClaim")
    settings = {
        f"{entry['metadata']['name']}/{key}" for entry in of_kind(overlay, "ConfigMap") for key in entry["data"]
    }
    assert asked["ConfigMap"] <= settings
    drawn = {f"{name}/{key}" for (space, name), values in secrets().items() if space == "kubeflow" for key in values}
    readme = (K8S / "README.md").read_text(encoding="utf-8")
    assert all(name.partition("/")[0] in readme for name in asked["Secret"] - drawn)  # those that a user adds


def test_the_namespace_admits_restricted_pods_only() -> None:
    (namespace,) = of_kind("base", "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pipelines_account_may_do_what_is_listed_and_nothing_wider() -> None:
    (role,) = of_kind("pipeline", "Role")
    for rule in role["rules"]:
        assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
        assert not {"create", "delete"} & set(rule["verbs"]) or rule["resources"] == ["workflowtaskresults"]
        if {"secrets", "configmaps"} & set(rule["resources"]):
            assert rule["resourceNames"]
    (binding,) = of_kind("pipeline", "RoleBinding")
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    ((subject, account),) = [(binding["subjects"][0], of_kind("pipeline", "ServiceAccount")[0])]
    assert subject["name"] == account["metadata"]["name"]
    assert not of_kind("overlays/gpu", "ClusterRole")
    assert not of_kind("overlays/gpu", "ClusterRoleBinding")


def test_triton_on_a_gpu_differs_from_triton_without_by_the_gpu_alone() -> None:
    (cpu,), (gpu,) = of_kind("triton/cpu", "Deployment"), of_kind("triton/gpu", "Deployment")
    spec = gpu["spec"]["template"]["spec"]
    assert spec.pop("tolerations") == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu") == 1
    assert gpu == cpu
    assert [port["port"] for port in of_kind("triton/cpu", "Service")[0]["spec"]["ports"]] == [8000, 8001, 8002]


def test_the_readme_goes_from_an_empty_cluster_to_a_finished_run_in_ten_commands() -> None:
    text = (K8S / "README.md").read_text(encoding="utf-8")
    block = text.split("## Ten commands", 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert len(commands) == 10
    for name in (images.REID, images.TENSORRT):
        assert name in block
    for folder in re.findall(r"-k (k8s/\S+)", text):
        assert folder.removeprefix("k8s/").rstrip("`") in RENDERED
    (wanted,) = re.findall(r"^kfp==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert set(re.findall(r"\?ref=([\d.]+)", text)) == {wanted}
