"""A pipeline whose training runs on several nodes: what its stages are told, and what is refused."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from components import entry
from components.nodes.settings import Nodes
from pipelines import run
from pipelines.cluster.preparation import compile_for_cluster, resources_of
from pipelines.cluster.resources import Resources
from pipelines.compilation import compile_pipeline
from reid.errors import PipelineError
from reid.spec import load_spec

SPEC = "train: {num_nodes: 3, num_gpus: 2}\ndataset: {batch_size: 48, num_instances: 4}\n"


def executors(folder: Path, resources: Resources) -> tuple[dict[str, Any], dict[str, Any]]:
    """Stage -> its container, and -> its part of the platform spec."""
    file = folder / "pipeline.yaml"
    compile_pipeline(file, resources=resources, spec_text="")
    pipeline, platform = yaml.safe_load_all(file.read_text())
    ours = pipeline["deploymentSpec"]["executors"]
    theirs = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    return (
        {name.removeprefix("exec-").replace("-", "_"): part["container"] for name, part in ours.items()},
        {name.removeprefix("exec-").replace("-", "_"): part for name, part in theirs.items()},
    )


def told(container: dict[str, Any]) -> Nodes | None:
    return Nodes.from_environment({entry["name"]: entry["value"] for entry in container.get("env", ())})


def test_the_stage_only_starts_the_nodes_and_each_is_as_large_as_a_training_in_one_pod(tmp_path: Path) -> None:
    cluster = {
        "gpu_node_selector": {"gpu": "h100"},
        "node_selector": {"pool": "reid"},
        "training_runtime": "reid-train",
    }
    asked = resources_of(load_spec(text=SPEC), cluster=cluster)
    containers, platform = executors(tmp_path, asked)
    nodes = Nodes(
        count=3,
        gpus=2,
        runtime="reid-train",
        resources={
            "requests": {"memory": "9G", "cpu": "250m", "nvidia.com/gpu": "2"},
            "limits": {"memory": "24G", "nvidia.com/gpu": "2"},
        },
        node_selector={"gpu": "h100"},
    )
    assert {stage: told(container) for stage, container in containers.items() if told(container)} == {
        "validate": nodes,
        "train": nodes,
    }
    train = containers["train"]["resources"]
    assert (train["resourceMemoryRequest"], train["resourceMemoryLimit"]) == ("512M", "2G")
    assert "accelerator" not in train
    assert "accelerator" in containers["evaluate"]["resources"]
    assert platform["train"]["nodeSelector"] == {"labels": {"pool": "reid"}}
    assert platform["evaluate"]["nodeSelector"] == {"labels": {"pool": "reid", "gpu": "h100"}}
    claims = [mount["mountPath"] for mount in platform["train"]["pvcMount"]]
    assert claims == ["/data", "/work"]
    assert platform["train"]["emptyDirMounts"][0]["mountPath"] == "/dev/shm"  # which each node has too


def test_a_training_in_one_pod_is_told_of_no_nodes(tmp_path: Path) -> None:
    containers, _ = executors(tmp_path, Resources(gpus=2))
    assert not any(told(container) for container in containers.values())
    assert "accelerator" in containers["train"]["resources"]


def test_without_a_work_volume_the_nodes_would_not_meet(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text('work_claim: ""\n')
    with pytest.raises(PipelineError) as caught:
        compile_for_cluster(tmp_path / "pipeline.yaml", load_spec(text=SPEC), cluster_file=file)
    assert str(caught.value) == (
        f"{file}: work_claim: found none, and train.num_nodes is 3\n"
        "  want: a claim that several nodes mount at once (ReadWriteMany)"
    )


def test_a_runner_on_one_machine_refuses_several_nodes_at_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "spec.yaml").write_text(SPEC)
    assert run.main(["--spec", str(tmp_path / "spec.yaml"), "--runner", "process"]) == 2
    assert capsys.readouterr().err == (
        "error: train.num_nodes: 3, and this runner has one machine\n"
        "  want: a cluster, KFP_ENDPOINT=…; or train.num_nodes=1; or the training by itself, on each machine:\n"
        "  torchrun --nnodes=3 … -m reid train -e SPEC\n"
    )


COMPILED = Nodes(count=3, gpus=2).as_text()
AGAIN = "or a pipeline compiled with these values: make compile\n"


@pytest.mark.parametrize(
    ("asked", "refusal"),
    [
        (("", 3, "2"), "train.num_nodes: 3\n  want: what it was compiled for (train.num_nodes=1)"),
        ((COMPILED, 1, "2"),
         "train.num_nodes: 1; this pipeline was compiled for 3 nodes\n"
         "  want: what it was compiled for (train.num_nodes=3)"),
        ((COMPILED, 3, "8"),
         "pipeline parameter gpus: 8; this pipeline was compiled for 2 GPUs in each node\n"
         "  want: what it was compiled for (train.num_nodes=3)"),
    ],
)  # fmt: skip
def test_validate_refuses_a_form_that_asks_for_other_nodes_than_were_compiled(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    asked: tuple[str, int, str],
    refusal: str,
) -> None:
    compiled, nodes, gpus = asked
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    monkeypatch.setenv("REID_NODES", compiled)
    monkeypatch.delenv("REID_WORK_DIR", raising=False)
    spec = f"train: {{num_nodes: {nodes}}}\ndataset: {{batch_size: 96, num_instances: 4}}\n"
    ports = {
        "inputs": {"parameterValues": {"spec": spec, "gpus": gpus}},
        "outputs": {"outputFile": str(tmp_path / "output.json")},
    }
    assert entry.main(["validate", "--executor-input", json.dumps(ports)]) == 2
    assert capsys.readouterr().err == f"error: {refusal}, {AGAIN}"
