"""What must agree across files: secrets, MLflow's address and version, the compiled pipeline's names, the README."""

import configparser
import re

import pytest
import yaml

from components import images
from pipelines.cluster.resources import Resources
from pipelines.compilation import compile_pipeline
from tests.k8s.manifests import COPY, OVERLAYS, RENDERED, ROOT, containers, named, of_kind, pods, secrets


def test_the_mlflow_server_is_of_the_version_that_the_stages_log_with() -> None:
    (wanted,) = re.findall(r"^mlflow==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    found = {container["image"] for name, container in containers("base") if name.startswith("mlflow/")}
    assert found == {f"ghcr.io/mlflow/mlflow:v{wanted}-full"}  # the one with PostgreSQL, S3 and log-in


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
    readme = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    assert all(name.partition("/")[0] in readme for name in asked["Secret"] - drawn)  # those that a user adds


def test_the_readme_goes_from_an_empty_cluster_to_a_finished_run_in_ten_commands() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    block = text.split("## Ten commands", 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
    commands = [line for line in block.replace("\\\n", " ").splitlines() if line and not line.startswith("#")]
    assert len(commands) == 10
    for name in (images.REID, images.TENSORRT):
        assert name in block
    for folder in re.findall(r"-k (k8s/\S+)", text):
        assert folder.removeprefix("k8s/").rstrip("`") in RENDERED
    (wanted,) = re.findall(r"^kfp==(\S+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert set(re.findall(r"\?ref=([\d.]+)", text)) == {wanted}


def test_the_readmes_commands_for_the_volumes_name_pods_and_folders_that_are_there() -> None:
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    block = text.split("## Filling the volumes", 1)[1].split("```bash\n", 1)[1].split("```", 1)[0]
    assert set(re.findall(r"--filename (\S+)", block)) == {f"k8s/{file}" for file in COPY}
    there = {
        (namespace, name, mount["mountPath"])
        for file in COPY
        for namespace, name, pod in pods(file)
        for mount in pod["spec"]["containers"][0]["volumeMounts"]
    }
    copied = re.findall(r"^kubectl cp \S+ (\S+)/(\S+):(\S+)$", block, re.MULTILINE)
    assert {("kubeflow", "reid-copy", "/data"), ("reid", "reid-copy", "/models")} == set(copied) <= there
    awaited = set(re.findall(r"--namespace (\S+) pod/(\S+)", block))
    assert awaited == {(namespace, name) for namespace, name, _ in there}
    assert ("kubeflow", "reid-copy", Resources().work_path) in there  # where the README finds old checkpoints
    assert f"reid-copy -- find {Resources().work_path} " in text
