"""Memory that each stage books and may use at most."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.cluster.cluster_file import read_cluster
from pipelines.cluster.memory import in_bytes
from pipelines.cluster.preparation import resources_of
from pipelines.cluster.resources import Resources, as_text
from pipelines.compilation import compile_pipeline
from pipelines.options import spec_path
from reid.spec import load_spec
from reid.spec.facts import STAGES
from tests.pipelines.cluster.kfp_driver import pod_resources

SMALL_MACHINE, SERVICES = 16 * 10**9, 5 * 10**9
"""A machine of 16 GB, and what Kubernetes, KFP and MLflow book of it."""


def sizes(**chosen: Any) -> dict[str, tuple[str, str]]:
    """Stage -> what it books, what it may use."""
    resources = Resources(**chosen)
    return {stage: (resources.booked(stage), resources.limit(stage)) for stage in STAGES}


@pytest.mark.parametrize("spec", ["demo", "market"])
def test_the_demo_and_market_on_one_gpu_fit_a_machine_of_16_gb(spec: str) -> None:
    resources = resources_of(load_spec(spec_path(spec)), cluster={})
    booked = {stage: in_bytes(resources.booked(stage)) for stage in STAGES}
    assert max(booked.values()) < SMALL_MACHINE - SERVICES
    at_once = sum(booked[stage] for stage in ("evaluate", "inference", "export"))
    assert at_once < SMALL_MACHINE - SERVICES


def test_a_training_books_more_for_each_further_gpu_and_other_stages_do_not() -> None:
    one, eight = sizes(gpus=1), sizes(gpus=8)
    assert one["train"] == ("6G", "16G") == sizes()["train"]
    assert eight["train"] == ("27G", "72G")
    del one["train"], eight["train"]
    assert one == eight


def test_one_memory_is_every_stages_limit_as_before_and_no_stage_books_more_than_it_may_use() -> None:
    for stage, (booked, limit) in sizes(memory="4G", gpus=8).items():
        assert limit == "4G"
        assert in_bytes(booked) <= 4 * 10**9, stage
    assert sizes(memory="4G")["train"] == ("4G", "4G")
    assert sizes(memory="64Gi")["train"] == ("6G", "64Gi")


def test_the_clusters_file_sizes_each_stage(tmp_path: Path) -> None:
    file = tmp_path / "cluster.yaml"
    file.write_text("memory: {train: 64G}\nmemory_requests: {train: 40G, validate: 512Mi}\n")
    found = sizes(**read_cluster(file))
    assert found["train"] == ("40G", "64G")
    assert found["validate"] == ("512Mi", "16G")
    assert found["export"] == ("3G", "16G")


def test_requests_and_limits_reach_the_pod_as_kfps_driver_reads_them(tmp_path: Path) -> None:
    found = pods_of(tmp_path, Resources(gpus=2, cpu_request="2"))
    assert found["exec-train"] == {
        "limits": {"memory": "24G", "nvidia.com/gpu": "2"},
        "requests": {"memory": "9G", "cpu": "2"},
    }


def test_a_pipeline_without_gpus_asks_for_none_and_not_for_0_of_them(tmp_path: Path) -> None:
    assert (as_text(0), as_text(2)) == ("", "2")
    for name, asked in pods_of(tmp_path, Resources()).items():
        assert asked["limits"] == {"memory": "16G"}, name
        assert asked["requests"]["cpu"] == "250m", name
    typed = pods_of(tmp_path, Resources(), gpus="0", embedding_gpus="1")  # in the UI's form
    assert typed["exec-train"]["limits"]["nvidia.com/gpu"] == "0"
    assert typed["exec-evaluate"]["limits"]["nvidia.com/gpu"] == "1"


def pods_of(tmp_path: Path, resources: Resources, **parameters: str) -> dict[str, dict[str, dict[str, str]]]:
    """Executor -> the resources of its pod, in a run with these pipeline parameters."""
    compile_pipeline(tmp_path / "pipeline.yaml", resources=resources, spec_text="")
    document = next(iter(yaml.safe_load_all((tmp_path / "pipeline.yaml").read_text())))
    return pod_resources(document, parameters)
