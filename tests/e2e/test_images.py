"""The real images: what is in them, and the whole pipeline in them, beside kfp's DockerRunner and beside processes."""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.local.containers import LABEL
from pipelines.local.docker_engine import image_id, image_label
from pipelines.local.image_builds import SOURCE, source_hash
from reid import __version__
from tests.docker_daemon import docker, docker_daemon, torch_image  # noqa: F401 - a fixture

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NAMES = {"REID_IMAGE": "reid-test/torch:1", "REID_TRT_IMAGE": "reid-test/tensorrt:1"}
ONE_THREAD = {"OMP_NUM_THREADS": "1"}
"""With more, sums are taken in another order, and a training goes another way."""
STAGES = ["validate", "manifest", "train", "evaluate", "export", "inference", "gen_trt_engine", "register"]
SPEC = """
results_dir: {folder}/results
model: {{backbone: timm/test_resnet, pretrain_choice: "", input_width: 32, input_height: 64, feat_dim: null}}
dataset:
  synthetic: {{root: {folder}/drawn/data, train_persons: 12, test_persons: 8, distractors: 4, junk: 3,
    images_per_camera: 2}}
  num_classes: 12
  batch_size: 16
  padding: 4
re_ranking: {{k1: 8, k2: 3}}
train: {{num_epochs: 8, optim: {{name: AdamW, base_lr: 0.002}}}}
mlflow: {{experiment: images, registered_model: reid-images}}
"""
OF_THE_MACHINE = re.compile(r".*seconds|.*per_second|.*_s|.*_ms|.*mib|.*speed.*|.*latency.*")
"""Figures that say how fast or how large: no two runs agree on them."""


@dataclass
class Workplace:
    """A folder with a spec and its results."""

    folder: Path

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def start(self, runner: str) -> "subprocess.Popen[str]":
        environment = {**os.environ, **NAMES, **ONE_THREAD, "MLFLOW_TRACKING_URI": f"sqlite:///{self.folder}/mlflow.db"}
        command = [sys.executable, "-m", "pipelines.run", "--spec", str(self.folder / "tiny.yaml"), "--runner", runner]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=ROOT
        )

    def run(self, runner: str) -> str:
        process = self.start(runner)
        text, _ = process.communicate(timeout=900)
        assert process.returncode == 0, text
        return text

    def outputs(self) -> dict[str, Path]:
        """Stage -> folder of its latest outputs."""
        return {stage: (self.results / "latest" / stage).resolve() for stage in STAGES}

    def containers(self) -> str:
        return docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={self.results}")


@pytest.fixture(scope="module")
def images(docker_daemon: None) -> Mapping[str, str]:  # noqa: F811
    """Both images, built by the command behind `make images`, unless an earlier session left them in this daemon."""
    wanted = {name: source_hash(image) for name, image in zip(NAMES.values(), ("torch", "tensorrt"), strict=True)}
    if all(image_id(name) and image_label(name, SOURCE) == source for name, source in wanted.items()):
        return NAMES
    environment = {**pip_settings(), **os.environ, **NAMES, "BASE": os.environ.get("BASE") or torch_image()}
    command = [sys.executable, "-m", "pipelines.local.image_builds", "build"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return NAMES


def pip_settings() -> dict[str, str]:
    """pip's settings on this machine that mean something in a build too, as variables."""
    found = {}
    for name in ("cert", "index-url", "extra-index-url", "trusted-host"):
        command = [sys.executable, "-m", "pip", "config", "get", f"global.{name}"]
        value = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        if value and "file:" not in value:
            found[f"PIP_{name.upper().replace('-', '_')}"] = value
    return found


@pytest.fixture(scope="module")
def workplace(images: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    place = Workplace(tmp_path_factory.mktemp("images"))
    (place.folder / "tiny.yaml").write_text(SPEC.format(folder=place.folder), encoding="utf-8")
    return place


def states(text: str) -> dict[str, str]:
    """stage -> state, out of the closing table."""
    rows = re.findall(r"^(\w+) +(ran|cached|continued|failed|stopped|not run) ", text.split("\nstage ", 1)[1], re.M)
    return dict(rows)


@pytest.mark.parametrize("name", NAMES.values())
def test_an_image_holds_what_its_stages_need_and_no_more(images: Mapping[str, str], name: str) -> None:
    facts = json.loads(docker("image", "inspect", name))[0]
    assert facts["Size"] <= 7_300_000_000
    assert facts["Config"]["User"] == "65532:65532"
    assert not facts["Config"]["Entrypoint"]
    assert re.fullmatch("[0-9a-f]{64}", facts["Config"]["Labels"]["reid.source"])
    assert facts["Config"]["Labels"]["org.opencontainers.image.version"] == __version__
    assert facts["Config"]["Labels"]["reid.nvidia-driver"] == "R580 or newer"
    wanted = ["torch", "timm"] if "tensorrt" not in name else ["tensorrt_rtx_bindings"]
    absent = {"kfp", "pytest", "mypy", *(["timm", "kubernetes"] if "tensorrt" in name else [])}
    code = f"""
import importlib.util, shutil
print(sorted(n for n in {sorted(absent)} if importlib.util.find_spec(n)))
print(sorted(n for n in {wanted} if not importlib.util.find_spec(n)))
print([n for n in ("make", "git", "/opt/venv/bin/pip") if shutil.which(n)])
import components.entry, mlflow, onnx
"""
    assert docker("run", "--rm", name, "python3", "-c", code).splitlines() == ["[]"] * 3
    history = docker("history", "--no-trunc", "--format", "{{.CreatedBy}}", name)
    assert "PIP_INDEX_URL" not in history
    assert "ca-certificates.crt" not in history


def test_the_image_of_torch_compiles_a_network_as_any_user_without_writing_to_itself(images: Mapping[str, str]) -> None:
    code = "import torch; print(torch.compile(lambda x: x.sin().cos())(torch.zeros(9)).tolist() == [1.0] * 9)"
    assert docker("run", "--rm", "--user", "12345:12345", "--read-only", "--tmpfs=/tmp:exec", NAMES["REID_IMAGE"],
                  "python3", "-c", code) == "True"  # fmt: skip


@pytest.mark.parametrize("stage", STAGES)
def test_every_stage_starts_in_its_image(images: Mapping[str, str], stage: str) -> None:
    name = NAMES["REID_TRT_IMAGE" if stage == "gen_trt_engine" else "REID_IMAGE"]
    assert (
        docker("run", "--rm", "--read-only", "--tmpfs=/tmp", name, "python3", "-c", f"import reid.stages.{stage}") == ""
    )


def test_the_pipeline_runs_in_containers_is_killed_continued_and_then_cached(workplace: Workplace) -> None:
    process = workplace.start("docker")
    log = workplace.results / "latest" / "train" / "log.txt"
    deadline = time.monotonic() + 300
    while not (log.exists() and re.search(r"epoch [1-7]/8: loss", log.read_text())):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.1)
    process.kill()
    process.communicate()
    while workplace.containers():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    text = workplace.run("docker")
    assert "continuing an interrupted train" in text
    assert states(text) == {**dict.fromkeys(STAGES, "ran"), "manifest": "cached", "train": "continued"}
    assert "stages as containers of reid-test/torch:1" in text
    assert states(workplace.run("docker")) == {stage: "ran" if stage == "validate" else "cached" for stage in STAGES}
    assert workplace.containers() == ""
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in workplace.results.rglob("*")}
    assert owners == {(os.getuid(), os.getgid())}


@pytest.mark.filterwarnings("ignore")
def test_kfps_docker_runner_and_both_of_ours_give_the_same(workplace: Workplace) -> None:
    workplace.run("docker")
    contained = workplace.outputs()
    workplace.run("process")
    processed = workplace.outputs()
    reference = run_with_kfp(workplace)
    for stage in STAGES:
        expected = facts(reference[stage])
        assert facts(contained[stage]) == expected, stage
        assert facts(processed[stage]) == expected, stage
        for figures in (metrics(contained[stage]), metrics(processed[stage])):
            # one interrupted training among them, and a CPU's kernels chosen anew in each process
            assert figures == pytest.approx(metrics(reference[stage]), rel=1e-3, abs=1e-3), stage


def run_with_kfp(workplace: Workplace) -> dict[str, Path]:
    """The compiled pipeline through kfp.local's DockerRunner: stage -> folder of its outputs."""
    script = f"""
import docker
from pathlib import Path
from kfp import components, local

folder = Path({str(workplace.folder)!r})
mounts = [docker.types.Mount(str(path), str(path), type="bind", read_only=path.name == "drawn")
          for path in (folder / "drawn", folder / "results/store")]
local.init(
    runner=local.DockerRunner(
        user="{os.getuid()}:{os.getgid()}", mounts=mounts, shm_size="2g", environment={ONE_THREAD!r}
    ),
    pipeline_root=str(folder / "kfp"),
)
pipeline = components.load_component_from_file(str(folder / "results/pipeline/pipeline.yaml"))
pipeline(spec=(folder / "results/pipeline/spec.txt").read_text())
"""
    (workplace.results / "pipeline" / "spec.txt").write_text(spec_text(workplace))
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return {path.name.replace("-", "_"): path for path in (workplace.folder / "kfp").glob("*/*")}


def spec_text(workplace: Workplace) -> str:
    """The spec as our runner hands it to the pipeline."""
    from reid.spec import load_spec
    from reid.spec.secret import open_text

    return open_text(load_spec(workplace.folder / "tiny.yaml"))


def facts(folder: Path) -> dict[str, Any]:
    """What a stage gave, whoever ran it: parameters, artifacts, their files, the names of their figures."""
    written = json.loads((folder / "executor_output.json").read_text())
    artifacts = {name: listed["artifacts"][0] for name, listed in written["artifacts"].items()}
    if "registration" in artifacts:  # kfp's runner was given no MLflow to register in
        artifacts["metrics"]["metadata"] = {}
    values = {name: value for name, value in written["parameterValues"].items() if not isinstance(value, float)}
    return {
        "parameters": {name: parsed(value) for name, value in values.items()},
        "artifacts": {name: sorted(entry["metadata"]) for name, entry in artifacts.items()},
        "files": {name: files(Path(entry["uri"])) for name, entry in artifacts.items()},
    }


def parsed(value: object) -> object:
    return yaml.safe_load(value) if isinstance(value, str) else value


def files(path: Path) -> list[str]:
    return sorted(str(file.relative_to(path)) for file in path.rglob("*")) if path.is_dir() else [f"{path.exists()}"]


def metrics(folder: Path) -> dict[str, float]:
    written = json.loads((folder / "executor_output.json").read_text())
    artifacts = written["artifacts"]
    compared = "metrics" in artifacts and "registration" not in artifacts  # manifest gives no figures
    figures = artifacts["metrics"]["artifacts"][0]["metadata"] if compared else {}
    return {name: value for name, value in figures.items() if not OF_THE_MACHINE.fullmatch(name)}
