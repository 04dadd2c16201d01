"""gen_trt_engine is made anew where another TensorRT or another GPU is here, and no other stage is."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.ir import Task
from pipelines.local.cache import key_of, key_parts
from pipelines.local.containers import Containers
from pipelines.local.docker_engine import Engine
from pipelines.local.engine_builders import gpus_here, installed_tensorrt
from pipelines.local.processes import Processes
from reid.deploy import gpu
from tests.pipelines.local.test_processes import python

ROOT = Path(__file__).resolve().parents[3]
STAGES = ("validate", "manifest", "train", "evaluate", "inference", "export", "gen_trt_engine", "register")


def stage_task(stage: str) -> Task:
    command = ("python3", "-m", "components.entry", stage)
    return dataclasses.replace(python(""), name=stage.replace("_", "-"), command=command)


def keys() -> dict[str, str]:
    """Stage -> key of its result on this machine as it is now."""
    found = {}
    for stage in STAGES:
        task = stage_task(stage)
        parts = key_parts(task, parameters={}, digests={}, code=Processes(ROOT).identity(task))
        found[stage] = key_of(task, parts)
    return found


def changed(before: dict[str, str], after: dict[str, str]) -> list[str]:
    return [stage for stage in STAGES if before[stage] != after[stage]]


def install(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a package for importlib.metadata."""
    place = folder / f"{name}-{version}.dist-info"
    place.mkdir(parents=True)
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")


def test_after_tensorrt_was_installed_or_upgraded_its_stage_alone_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "packages").mkdir()
    monkeypatch.syspath_prepend(tmp_path / "packages")
    before, there = keys(), installed_tensorrt()
    install(tmp_path / "packages", "tensorrt_cu13", "11.4.0.106")
    installed = keys()
    assert "tensorrt-cu13 11.4.0.106" in installed_tensorrt()
    assert "tensorrt-cu13" not in there
    assert changed(before, installed) == ["gen_trt_engine"]
    (tmp_path / "packages" / "tensorrt_cu13-11.4.0.106.dist-info").rename(tmp_path / "away")
    assert keys() == before
    install(tmp_path / "packages", "tensorrt_cu13", "11.3.0.99")
    assert changed(installed, keys()) == ["gen_trt_engine"]


def test_where_a_gpu_appears_or_is_another_one_its_stage_alone_has_another_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    monkeypatch.setattr(gpu, "DRIVER", str(tmp_path / "none"))
    without = keys()
    assert gpus_here() == "none"
    request.getfixturevalue("gpu_of_c")
    assert gpus_here() == "a GPU of C, compute capability 8.6"
    assert changed(without, one := keys()) == ["gen_trt_engine"]
    assert keys() == one
    monkeypatch.setenv("CAPABILITY_OF_C", "9.0")
    assert gpus_here() == "a GPU of C, compute capability 9.0"
    assert changed(one, keys()) == ["gen_trt_engine"]


def test_a_containers_key_tells_the_gpus_that_it_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpu_of_c: None
) -> None:
    docker = tmp_path / "docker"
    docker.write_text('#!/bin/sh\n[ "$1" = image ] && echo sha256:1\nexit 0\n')
    docker.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    def identity(stage: str, *, docker_has_gpus: bool, asks: bool = True) -> dict[str, str]:
        machine = Engine(rootless=False, selinux=False, gpus=docker_has_gpus)
        tasks = Containers(machine, tmp_path, mounts=lambda _: {}, environment={})
        return tasks.identity(dataclasses.replace(stage_task(stage), accelerator=asks))

    image = {"image": "sha256:1"}
    assert identity("gen_trt_engine", docker_has_gpus=True) == image | {"gpus": "a GPU of C, compute capability 8.6"}
    assert identity("gen_trt_engine", docker_has_gpus=False) == image | {"gpus": "none"}
    assert identity("gen_trt_engine", docker_has_gpus=True, asks=False) == image | {"gpus": "none"}
    for stage in ("validate", "train", "evaluate"):
        assert identity(stage, docker_has_gpus=True) == image
