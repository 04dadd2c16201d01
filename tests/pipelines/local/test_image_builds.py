"""Building, pulling and pushing images: what Docker is asked, by a program in its place; tests/e2e has the real one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipelines.local.image_builds import source_hash
from reid import __version__

ROOT = Path(__file__).resolve().parents[3]
DOCKER = """#!/bin/sh
echo "$@" >> "$0.asked"
case "$*" in
    info*) echo '{}' ;;
    *.Id*) test -z "$MISSING" || { echo "Error: No such image: $5" >&2; exit 1; }; echo sha256:1 ;;
    *index*) echo "$LABEL" ;;
    *RepoDigests*)
        name=${5##*/}
        echo "[\\"other.org/x@sha256:0\\", \\"registry.org/team/reid-pipeline/${name%:*}@sha256:9\\"]" ;;
    pull*) echo "Error response from daemon: pull access denied" >&2; exit 1 ;;
    build*) exit ${BUILD_STATUS:-0} ;;
esac
"""


class Asked:
    """The command with a docker of ours, and what it was asked."""

    def __init__(self, folder: Path) -> None:
        self.program = folder / "docker"
        self.program.write_text(DOCKER)
        self.program.chmod(0o755)
        self.done: subprocess.CompletedProcess[str]

    def run(self, code: str, **environment: str) -> list[str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("REID_", "PIP_", "BASE"))}
        self.done = subprocess.run(
            [sys.executable, "-c", f"import sys; from pipelines.local.image_builds import *; sys.exit({code})"],
            env={**own, "PATH": f"{self.program.parent}:{os.environ['PATH']}", **environment},
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        asked = self.program.with_name("docker.asked")
        return asked.read_text().splitlines() if asked.exists() else []


@pytest.fixture
def docker(tmp_path: Path) -> Asked:
    return Asked(tmp_path)


def test_build_passes_the_base_the_index_and_the_sources_on(docker: Asked) -> None:
    asked = docker.run(
        "main(['build'])", BASE="python:3.12", PIP_INDEX_URL="https://index.example.org/simple", BUILD_ARGS="--no-cache"
    )
    assert docker.done.returncode == 0, docker.done.stderr
    builds = [line for line in asked if line.startswith("build")]
    for line, image in zip(builds, ("torch", "tensorrt"), strict=True):
        assert line == (
            f"build --file components/Dockerfile --tag reid-pipeline/{image}:{__version__} --build-arg IMAGE={image}"
            f" --build-arg VERSION={__version__} --build-arg SOURCE={source_hash(image)} --build-arg BASE=python:3.12"
            " --build-arg PIP_INDEX_URL=https://index.example.org/simple --no-cache ."
        )


def test_the_tensorrt_image_can_have_a_base_of_its_own(docker: Asked) -> None:
    asked = docker.run("main(['build'])", TENSORRT_BASE="nvcr.io/nvidia/tensorrt:25.08-py3")
    torch, tensorrt = [line for line in asked if line.startswith("build")]
    assert "BASE" not in torch
    assert "--build-arg BASE=nvcr.io/nvidia/tensorrt:25.08-py3" in tensorrt


def test_a_build_that_fails_says_what_it_wants(docker: Asked) -> None:
    docker.run("main(['build'])", BUILD_STATUS="1")
    assert docker.done.returncode == 2
    assert docker.done.stderr == (
        f"error: image reid-pipeline/torch:{__version__}: docker build failed, see above\n"
        "  want: a BASE with Python 3.11 and a package index that can be reached; pip's PIP_INDEX_URL,\n"
        "        PIP_EXTRA_INDEX_URL and PIP_TRUSTED_HOST are passed on, certificates go to"
        f" {ROOT}/build/ca-certificates.crt\n"
    )


def test_a_digest_cannot_be_built(docker: Asked) -> None:
    docker.run("main(['build'])", REID_IMAGE="registry.org/reid@sha256:0")
    assert docker.done.stderr == (
        "error: REID_IMAGE=registry.org/reid@sha256:0: a digest names an image that is built already\n  want: a tag\n"
    )


@pytest.mark.parametrize(
    ("environment", "wanted", "says"),
    [
        (
            {"MISSING": "1"},
            2,
            f"image reid-pipeline/torch:{__version__} is missing: building it (see components/Dockerfile)",
        ),
        (
            {"LABEL": "of yesterday"},
            2,
            f"image reid-pipeline/torch:{__version__} is old: building it (see components/Dockerfile)",
        ),
        ({"REID_IMAGE": "a:1", "REID_TRT_IMAGE": "b:1", "LABEL": "of others"}, 0, ""),
    ],
    ids=["missing", "old", "named by the user"],
)
def test_an_image_is_built_where_it_is_missing_or_made_of_other_code(
    docker: Asked, environment: dict[str, str], wanted: int, says: str
) -> None:
    asked = docker.run("ensure()", **environment)
    assert docker.done.returncode == 0, docker.done.stderr
    assert len([line for line in asked if line.startswith("build")]) == wanted
    assert docker.done.stdout.partition("\n")[0] == says


def test_an_image_that_a_variable_names_is_pulled_and_never_built(docker: Asked) -> None:
    asked = docker.run("ensure()", REID_IMAGE="registry.org/reid:7", MISSING="1")
    assert [line for line in asked if line.startswith(("pull", "build"))] == ["pull --quiet registry.org/reid:7"]
    assert docker.done.stderr.endswith(
        "REID_IMAGE=registry.org/reid:7: no such image here, and docker pull --quiet: Error response from daemon:"
        " pull access denied\n"
        "  want: an image that is here or can be pulled; without REID_IMAGE the project's own is built\n"
    )


@pytest.mark.parametrize(
    ("environment", "ready"),
    [
        ({"REID_IMAGE": "a:1", "REID_TRT_IMAGE": "b:1"}, True),
        ({"REID_IMAGE": "a:1", "REID_TRT_IMAGE": "b:1", "MISSING": "1"}, False),
        ({"LABEL": "of yesterday"}, False),
        ({"PATH": "/nowhere"}, False),
    ],
    ids=["there", "missing", "old", "no docker"],
)
def test_auto_takes_containers_only_where_nothing_is_left_to_build(
    docker: Asked, environment: dict[str, str], ready: bool
) -> None:
    docker.run("print(all_ready())", **environment)
    assert docker.done.stdout == f"{ready}\n", docker.done.stderr


def test_push_tags_pushes_and_prints_the_digests(docker: Asked) -> None:
    asked = docker.run("main(['push', 'registry.org/team/'])")
    assert docker.done.returncode == 0, docker.done.stderr
    assert [line for line in asked if line.startswith(("tag", "push"))] == [
        f"tag reid-pipeline/torch:{__version__} registry.org/team/reid-pipeline/torch:{__version__}",
        f"push --quiet registry.org/team/reid-pipeline/torch:{__version__}",
        f"tag reid-pipeline/tensorrt:{__version__} registry.org/team/reid-pipeline/tensorrt:{__version__}",
        f"push --quiet registry.org/team/reid-pipeline/tensorrt:{__version__}",
    ]
    assert docker.done.stdout.splitlines()[1:] == [
        "export REID_IMAGE=registry.org/team/reid-pipeline/torch@sha256:9",
        "export REID_TRT_IMAGE=registry.org/team/reid-pipeline/tensorrt@sha256:9",
    ]


def test_push_without_images_or_without_a_registry_says_what_it_wants(docker: Asked) -> None:
    docker.run("main(['push', 'registry.org'])", MISSING="1")
    assert docker.done.stderr == (
        f"error: make push: no image reid-pipeline/torch:{__version__} here\n  want: make images\n"
    )
    done = subprocess.run(["make", "push"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stderr.splitlines()[0] == "make push: want REGISTRY=registry.example.org/team"


def test_an_edit_of_the_code_makes_the_image_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pipelines.local import image_builds

    for name in ("reid", "components"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "requirements.lock", tmp_path)
    monkeypatch.setattr(image_builds, "ROOT", tmp_path)
    before = source_hash("torch")
    assert before == source_hash("torch")
    with (tmp_path / "reid" / "losses.py").open("a") as stream:
        stream.write("# changed\n")
    after = source_hash("torch")
    assert after != before
    with (tmp_path / "components" / "evaluate.py").open("a") as stream:  # kfp's side: not in the image
        stream.write("# changed\n")
    assert source_hash("torch") == after
