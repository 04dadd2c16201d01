"""What every manifest of k8s/ keeps to: pinned images, limits, probes, no privileges, selectors and names that meet."""

import copy
import re
from typing import Any

import pytest

from components.nodes.files import USER_ERROR
from components.nodes.job import NODE
from tests.k8s.manifests import COPY, K8S, OVERLAYS, RENDERED, ROOT, containers, named, of_kind, pods, rendered, secrets


@pytest.mark.parametrize("folder", RENDERED)
def test_it_renders_and_every_object_is_said_once_and_has_its_namespace(folder: str) -> None:
    names = [
        (entry["kind"], entry["metadata"].get("namespace"), entry["metadata"]["name"]) for entry in rendered(folder)
    ]
    assert names
    assert len(set(names)) == len(names)
    of_no_namespace = {"Namespace", "ClusterRole", "ClusterRoleBinding"}
    assert {kind for kind, namespace, _ in names if namespace is None} <= of_no_namespace


def test_every_folder_with_a_kustomization_is_rendered_here() -> None:
    found = {str(path.parent.relative_to(K8S)) for path in K8S.rglob("kustomization.yaml")}
    assert found == {*RENDERED, "triton/shared"}


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/kind", "triton/cpu", *COPY])
def test_every_image_is_pinned_to_a_version(folder: str) -> None:
    for name, container in containers(folder):
        _, _, tag = container["image"].rpartition("/")[2].partition(":")
        assert re.search(r"\d+\.\d+", tag), f"{name}: {container['image']}"


@pytest.mark.parametrize("folder", ["overlays/gpu", "overlays/kind", "triton/cpu", *COPY])
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


def test_only_mlflow_connects_to_others_and_only_labelled_clients_to_triton() -> None:
    specs = {policy["metadata"]["name"]: policy["spec"] for policy in of_kind("overlays/gpu", "NetworkPolicy")}
    everyone = specs["nobody"]
    assert (everyone["podSelector"], everyone["policyTypes"]) == ({}, ["Ingress", "Egress"])
    assert [name for name, spec in specs.items() if spec.get("egress")] == ["mlflow"]
    opened = [port["port"] for rule in specs["mlflow"]["egress"] for port in rule["ports"]]
    assert opened == [5432, 8333, 53, 53]  # PostgreSQL, the S3 store, DNS
    for spec in specs.values():
        for source in (source for rule in spec.get("ingress", []) for source in rule["from"]):
            assert all(selector.get("matchLabels") for selector in source.values()), source
    assert [[*source.values()] for source in specs["triton"]["ingress"][0]["from"]] == [
        [{"matchLabels": {"reid-triton-client": "true"}}]
    ] * 2


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


def test_the_namespace_admits_restricted_pods_only() -> None:
    (namespace,) = of_kind("base", "Namespace")
    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_the_pipelines_account_may_do_what_runs_of_kfp_need_and_nothing_wider() -> None:
    (role,) = of_kind("pipeline", "Role")
    rights = {(*rule["resources"], *rule.get("resourceNames", [])): rule["verbs"] for rule in role["rules"]}
    assert rights == {  # seen on KFP 2.17.0
        ("workflowtaskresults",): ["create", "patch"],
        ("pods",): ["get"],
        ("configmaps", "kfp-launcher"): ["get"],
        ("secrets", "mlpipeline-minio-artifact"): ["get"],
    }
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
    (cpu,), (gpu,) = of_kind("triton/cpu", "Deployment"), copy.deepcopy(of_kind("triton/gpu", "Deployment"))
    spec = gpu["spec"]["template"]["spec"]
    assert spec.pop("tolerations") == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert spec["containers"][0]["resources"]["limits"].pop("nvidia.com/gpu") == 1
    assert gpu == cpu
    assert [port["port"] for port in of_kind("triton/cpu", "Service")[0]["spec"]["ports"]] == [8000, 8001, 8002]


@pytest.mark.parametrize("file", COPY)
def test_a_copy_pod_writes_as_the_stages_do_on_claims_that_are_there_and_brings_no_new_image(file: str) -> None:
    ((namespace, _, pod),) = pods(file)
    spec = pod["spec"]
    user = re.search(r"^USER (\d+):(\d+)$", (ROOT / "components" / "Dockerfile").read_text(), re.MULTILINE)
    assert user is not None
    assert spec["securityContext"]["runAsUser"] == int(user[1])
    assert spec["securityContext"]["runAsGroup"] == int(user[2])
    assert spec["automountServiceAccountToken"] is False
    assert {entry["image"] for _, entry in containers(file)} <= {entry["image"] for _, entry in containers("base")}
    claims = {(namespace, volume["persistentVolumeClaim"]["claimName"]) for volume in spec["volumes"]}
    for overlay in OVERLAYS if namespace == "kubeflow" else ("overlays/gpu", "triton/cpu"):
        assert claims <= named(overlay, "PersistentVolumeClaim")
    mounts = spec["containers"][0]["volumeMounts"]
    assert [mount["name"] for mount in mounts] == [volume["name"] for volume in spec["volumes"]]
    assert not any(mount.get("readOnly") for mount in mounts)


def test_the_copy_pod_of_triton_differs_in_its_volume_its_group_and_its_place_alone() -> None:
    ((_, _, data),), ((_, _, models),) = pods(COPY[0]), pods(COPY[1])
    ((_, _, triton),) = pods("triton/gpu")
    data, models = copy.deepcopy((data, models))
    assert data["spec"]["securityContext"].pop("fsGroup") == data["spec"]["securityContext"]["runAsGroup"]
    group = models["spec"]["securityContext"].pop("fsGroup")
    assert group == triton["spec"]["securityContext"]["fsGroup"]
    assert models["spec"].pop("tolerations") == triton["spec"]["tolerations"]
    (beside,) = models["spec"].pop("affinity")["podAffinity"]["preferredDuringSchedulingIgnoredDuringExecution"]
    assert beside["podAffinityTerm"]["labelSelector"]["matchLabels"] == triton["metadata"]["labels"]
    for pod in (data, models):
        del pod["metadata"]["namespace"], pod["spec"]["volumes"], pod["spec"]["containers"][0]["volumeMounts"]
    assert models == data


def test_the_pod_that_gives_the_volumes_away_mounts_what_the_copy_pod_mounts_and_may_change_owners_alone() -> None:
    ((_, _, copying),), ((namespace, _, owner),) = pods(COPY[0]), pods("copy/owner.yaml")
    (container,), (copier,) = owner["spec"]["containers"], copying["spec"]["containers"]
    assert namespace == "kubeflow"
    assert owner["spec"]["volumes"] == copying["spec"]["volumes"]
    assert container["volumeMounts"] == copier["volumeMounts"]
    assert container["image"] == copier["image"]
    user = copying["spec"]["securityContext"]
    folders = [mount["mountPath"] for mount in container["volumeMounts"]]
    given_to = f"{user['runAsUser']}:{user['runAsGroup']}"
    assert container["command"] == ["chown", "--recursive", "--verbose", given_to, *folders]
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], "add": ["CHOWN", "DAC_OVERRIDE"]}
    assert not container["securityContext"]["allowPrivilegeEscalation"]


def test_the_pipelines_account_may_begin_and_end_trainings_on_several_nodes_and_nothing_wider() -> None:
    rights = {}
    for kind in ("Role", "ClusterRole"):
        (role,) = of_kind("trainer", kind)
        (binding,) = of_kind("trainer", f"{kind}Binding")
        assert binding["roleRef"] == {"apiGroup": "rbac.authorization.k8s.io", "kind": kind, **_name(role)}
        assert binding["subjects"] == [{"kind": "ServiceAccount", "name": "reid-pipeline", "namespace": "kubeflow"}]
        rights |= {rule["resources"][0]: rule["verbs"] for rule in role["rules"]}
    assert rights == {  # what components/nodes/cluster.py calls
        "trainjobs": ["create", "get", "delete"],
        "trainingruntimes": ["get"],
        "clustertrainingruntimes": ["get"],
        "pods": ["get", "list"],
        "pods/log": ["get"],
        "persistentvolumeclaims": ["get"],
    }


def _name(manifest: dict[str, Any]) -> dict[str, str]:
    return {"name": manifest["metadata"]["name"]}


def test_the_overlay_of_trainings_on_several_nodes_has_volumes_that_they_mount_at_once() -> None:
    modes = {
        entry["metadata"]["name"]: entry["spec"]["accessModes"]
        for entry in of_kind("overlays/trainer", "PersistentVolumeClaim")
    }
    assert modes["reid-data"] == modes["reid-work"] == ["ReadWriteMany"]


def test_the_runtime_of_ours_is_one_that_a_trainjob_of_ours_can_name() -> None:
    (runtime,) = of_kind("trainer", "TrainingRuntime")
    assert runtime["metadata"]["labels"] == {"trainer.kubeflow.org/framework": "torch"}
    (replicated,) = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    job = replicated["template"]
    assert job["metadata"]["labels"] == {"trainer.kubeflow.org/trainjob-ancestor-step": "trainer"}
    (container,) = job["spec"]["template"]["spec"]["containers"]
    assert replicated["name"] == container["name"] == NODE
    (ends, ignores) = job["spec"]["podFailurePolicy"]["rules"]
    assert ends["action"] == "FailJob"
    assert ends["onExitCodes"] == {"containerName": NODE, "operator": "In", "values": [USER_ERROR]}
    assert ignores["action"] == "Ignore"
    assert job["spec"]["template"]["spec"]["restartPolicy"] == "Never"  # a podFailurePolicy needs it
