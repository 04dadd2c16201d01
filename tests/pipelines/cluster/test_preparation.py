"""What `make compile` fixes for a cluster: resources, places, secrets, caching; read from the compiled YAML."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import images
from pipelines import ir
from pipelines.cluster.cluster_file import read_cluster
from pipelines.cluster.preparation import named_by_digest
from pipelines.run import ROOT, main
from reid.errors import PipelineError
from reid.files.secrets import KEY_ENVIRONMENT
from reid.spec import load_spec
from reid.spec.facts import InForm
from reid.spec.fields import fields_with
from reid.stages.work_folder import EMPTIES

CLUSTER = """
memory: 32G
shared_memory: 8Gi
data_claim: my-data
work_claim: my-work
node_selector: {zone: a}
gpu_node_selector: {gpu: h100}
tolerations:
  - {key: nvidia.com/gpu, operator: Exists, effect: NoSchedule}
secrets: {my-secret: {password: MLFLOW_TRACKING_PASSWORD}}
pull_secrets: [registry]
timeouts: {train: 86400}
"""


def compiled(tmp_path: Path, *arguments: str, spec: str = "market") -> tuple[dict[str, Any], dict[str, Any]]:
    target = tmp_path / "pipeline.yaml"
    assert main(["--spec", spec, "--compile-only", str(target), *arguments]) == 0
    pipeline, platform = yaml.safe_load_all(target.read_text())
    return pipeline, platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_the_form_has_a_usable_default_and_a_description_for_every_parameter(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path)
    form = pipeline["root"]["inputDefinitions"]["parameters"]
    assert {name: entry["defaultValue"] for name, entry in form.items() if name != "spec"} == {
        "data_claim": "reid-data",
        "gpus": "1",
        "embedding_gpus": "1",
        "engine_gpus": "1",
        **{fact.parameter: "" for fact in fields_with(InForm).values()},
    }
    assert all(entry["description"] for entry in form.values())
    spec = yaml.safe_load(form["spec"]["defaultValue"])
    assert spec["dataset"]["query_dataset_dir"] == "/data/market1501/query"
    assert spec["results_dir"] == "/tmp/reid"


def test_a_count_of_gpus_is_a_text_for_kfps_driver_reads_no_other_parameter_of_a_resource(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path)
    form = pipeline["root"]["inputDefinitions"]["parameters"]
    assert {form[name]["parameterType"] for name in ("gpus", "embedding_gpus", "engine_gpus")} == {"STRING"}


def test_gpus_are_the_forms_and_no_other_stage_asks_for_any(tmp_path: Path) -> None:
    pipeline, _ = compiled(tmp_path, "train.num_gpus=4")
    asked = {
        name.removeprefix("exec-"): executor["container"]["resources"]["accelerator"]["resourceCount"]
        for name, executor in pipeline["deploymentSpec"]["executors"].items()
        if "accelerator" in executor["container"]["resources"]
    }
    assert asked == {
        "train": "{{$.inputs.parameters['pipelinechannel--gpus']}}",
        "evaluate": "{{$.inputs.parameters['pipelinechannel--embedding_gpus']}}",
        "inference": "{{$.inputs.parameters['pipelinechannel--embedding_gpus']}}",
        "gen-trt-engine": "{{$.inputs.parameters['pipelinechannel--engine_gpus']}}",
    }
    tasks = {task.stage: task.gpus for task in ir.load(tmp_path / "pipeline.yaml").tasks}
    booked = {"train": 4, "evaluate": 1, "inference": 1, "gen_trt_engine": 1}
    assert {stage: gpus for stage, gpus in tasks.items() if gpus} == booked


def test_gpus_named_by_number_are_counted_and_lose_their_names(tmp_path: Path) -> None:
    spec = tmp_path / "spec.yaml"
    spec.write_text("train: {gpu_ids: [2, 3, 5, 7]}\ngen_trt_engine: {gpu_id: 1}\n")
    pipeline, _ = compiled(tmp_path, spec=str(spec))
    form = pipeline["root"]["inputDefinitions"]["parameters"]
    asked = {name: form[name]["defaultValue"] for name in ("gpus", "embedding_gpus", "engine_gpus")}
    assert asked == {"gpus": "4", "embedding_gpus": "", "engine_gpus": "1"}
    submitted = load_spec(text=form["spec"]["defaultValue"])
    assert (submitted.train.num_gpus, submitted.train.gpu_ids) == (4, [0])
    assert submitted.gen_trt_engine.gpu_id == 0


def test_a_spec_without_gpus_books_none(tmp_path: Path) -> None:
    compiled(tmp_path, spec="demo")
    assert {task.gpus for task in ir.load(tmp_path / "pipeline.yaml").tasks} == {0}


def test_the_clusters_file_decides_nodes_memory_volumes_secrets_and_times(tmp_path: Path) -> None:
    (tmp_path / "cluster.yaml").write_text(CLUSTER)
    pipeline, platform = compiled(tmp_path, "--cluster", str(tmp_path / "cluster.yaml"))
    train, export = platform["exec-train"], platform["exec-export"]
    assert train["nodeSelector"]["labels"] == {"zone": "a", "gpu": "h100"}
    assert export["nodeSelector"]["labels"] == {"zone": "a"}
    assert train["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert train["emptyDirMounts"][0]["sizeLimit"] == "8Gi"
    assert [mount["mountPath"] for mount in train["pvcMount"]] == ["/data", "/work"]
    assert train["pvcMount"][1]["constant"] == "my-work"
    assert pipeline["root"]["inputDefinitions"]["parameters"]["data_claim"]["defaultValue"] == "my-data"
    assert (train["activeDeadlineSeconds"], export["activeDeadlineSeconds"]) == ("86400", "7200")
    assert [(entry["secretName"], entry["optional"]) for entry in train["secretAsEnv"]] == [("my-secret", True)]
    assert train["imagePullSecret"][0]["secretName"] == "registry"
    memory = pipeline["deploymentSpec"]["executors"]["exec-export"]["container"]["resources"]
    assert memory["resourceMemoryLimit"] == "32G"
    assert memory["resourceMemoryRequest"] == "3G"


def test_stages_know_their_run_and_where_mlflow_is_and_run_as_no_root(tmp_path: Path) -> None:
    _, platform = compiled(tmp_path)
    for executor in platform.values():
        assert executor["fieldPathAsEnv"] == [{"name": "KFP_RUN_ID", "fieldPath": "metadata.labels['pipeline/runid']"}]
        assert executor["configMapAsEnv"][0]["keyToEnv"] == [
            {"configMapKey": "tracking-uri", "envVar": "REID_MLFLOW_TRACKING_URI"}
        ]
        assert int(executor["activeDeadlineSeconds"]) >= 3600
        assert executor["securityContext"] == {"runAsNonRoot": True}  # all that Pod Security "restricted" lacked


def test_kubernetes_can_tell_that_the_images_user_is_not_root() -> None:
    users = re.findall(r"^USER (.*)$", (ROOT / "components" / "Dockerfile").read_text(), re.MULTILINE)
    assert re.fullmatch("[1-9][0-9]*:[1-9][0-9]*", users[-1])  # it refuses runAsNonRoot for a user by name


@pytest.mark.parametrize("pinned", [False, True])
def test_kubeflows_cache_is_used_only_for_images_named_by_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], pinned: bool
) -> None:
    digest = "registry/reid@sha256:" + 64 * "0"
    for name in ("REID", "TENSORRT"):
        monkeypatch.setattr(images, name, digest if pinned else "registry/reid:latest")
    pipeline, _ = compiled(tmp_path)
    caching = {
        name: task["cachingOptions"].get("enableCache", False)
        for name, task in pipeline["root"]["dag"]["tasks"].items()
    }
    assert caching.pop("validate") is False
    assert set(caching.values()) == {pinned}
    assert ("name no digest" in capsys.readouterr().err) is not pinned
    assert named_by_digest(digest, digest) and not named_by_digest(digest, "reid:1")


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("memroy: 3G", "unknown field 'memroy'\n  want: some of "),
        ("gpus: 3", "unknown field 'gpus'\n  want: some of "),
        ("tolerations: {key: x}", "tolerations: found {'key': 'x'}\n  want: a list"),
        ("- memory", "line 1: found a list, want sections (key: value)\n  want: a YAML file of the cluster"),
    ],
)
def test_a_mistake_in_the_clusters_file_is_told(tmp_path: Path, text: str, wanted: str) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text(text)
    with pytest.raises(PipelineError) as caught:
        read_cluster(file)
    assert str(caught.value).startswith(f"{file}: {wanted}")


def secret_of_the_key(executor: dict[str, Any]) -> tuple[str, bool]:
    """Name, and whether it may be missing, of the Secret that gives the key."""
    (found,) = [
        (entry["secretName"], entry["optional"])
        for entry in executor["secretAsEnv"]
        if KEY_ENVIRONMENT in {one["envVar"] for one in entry["keyToEnv"]}
    ]
    return found


@pytest.mark.parametrize("asked", ["encryption_key=hush-hush", "export.encrypted=true", "the environment"])
def test_a_key_is_not_sent_and_the_secret_that_holds_it_has_to_be_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, asked: str
) -> None:
    monkeypatch.setattr(images, "REID", "registry/reid@sha256:" + 64 * "0")
    monkeypatch.setattr(images, "TENSORRT", images.REID)
    monkeypatch.delenv("KFP_NAMESPACE", raising=False)
    monkeypatch.delenv(KEY_ENVIRONMENT, raising=False)
    if asked == "the environment":
        monkeypatch.setenv(KEY_ENVIRONMENT, "hush-hush")
    pipeline, platform = compiled(tmp_path, *([asked] if "=" in asked else []))
    assert {secret_of_the_key(executor) for executor in platform.values()} == {("reid-encryption", False)}
    assert {entry["optional"] for entry in platform["exec-train"]["secretAsEnv"]} == {True, False}  # MLflow's may miss
    commands = [executor["container"]["command"] for executor in pipeline["deploymentSpec"]["executors"].values()]
    assert {command[-1] for command in commands} == {"--encrypted"}
    assert "hush-hush" not in (tmp_path / "pipeline.yaml").read_text()
    assert capsys.readouterr().err == (
        "note: the encryption key is not sent: the stages take it from the secret reid-encryption (key `key`),"
        " and do not start without it:\n"
        "  kubectl create secret generic reid-encryption --namespace kubeflow --from-literal=key=…\n"
    )


def test_a_pipeline_that_asks_for_no_encryption_needs_no_key(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(KEY_ENVIRONMENT, raising=False)
    pipeline, platform = compiled(tmp_path)
    assert {secret_of_the_key(executor) for executor in platform.values()} == {("reid-encryption", True)}
    assert "--encrypted" not in str(pipeline)
    assert "key" not in capsys.readouterr().err


def test_the_clusters_file_names_the_secret_of_the_key_or_is_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KFP_NAMESPACE", "team-a")
    cluster = tmp_path / "cluster.yaml"
    cluster.write_text("secrets: {ours: {phrase: REID_ENCRYPTION_KEY}}")
    _, platform = compiled(tmp_path, "encryption_key=x", "--cluster", str(cluster))
    assert secret_of_the_key(platform["exec-export"]) == ("ours", False)
    said = capsys.readouterr().err
    assert said.endswith("\n  kubectl create secret generic ours --namespace team-a --from-literal=phrase=…\n")
    cluster.write_text("secrets: {}")
    arguments = ["--compile-only", str(tmp_path / "none.yaml"), "encryption_key=x", "--cluster", str(cluster)]
    assert main(["--spec", "market", *arguments]) == 2
    assert capsys.readouterr().err.endswith(
        f"error: {cluster}: secrets: found none that gives REID_ENCRYPTION_KEY, and this spec asks for encryption\n"
        "  want: one that does, e.g. reid-encryption: {key: REID_ENCRYPTION_KEY}\n"
    )
    assert not (tmp_path / "none.yaml").exists()


def test_the_work_volume_is_seen_by_train_and_by_the_stage_that_empties_it(tmp_path: Path) -> None:
    pipeline, platform = compiled(tmp_path)
    seeing = {name for name, executor in platform.items() if "reid-work" in str(executor.get("pvcMount"))}
    assert seeing == {"exec-train", *(f"exec-{stage}" for stage in EMPTIES)}
    told = {
        name
        for name, executor in pipeline["deploymentSpec"]["executors"].items()
        if {"name": "REID_WORK_DIR", "value": "/work"} in executor["container"].get("env", [])
    }
    assert told == seeing
    for stage, worked in EMPTIES.items():  # what it is given is the proof that it is delivered
        inputs = pipeline["root"]["dag"]["tasks"][stage]["inputs"]["artifacts"].values()
        assert worked in {given["taskOutputArtifact"]["producerTask"] for given in inputs}
