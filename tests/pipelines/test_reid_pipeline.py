"""The real graph, compiled: its ports, its caching, its platform spec; kfp.local's DockerRunner judges our runner."""

import importlib
import inspect
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from components.entry import DRAWN
from pipelines import ir
from pipelines.cluster.resources import Resources
from pipelines.compilation import compile_pipeline
from pipelines.display import Display
from pipelines.local.cache import Store
from pipelines.local.processes import Processes
from pipelines.local.run_record import RunRecord
from pipelines.local.scheduler import LocalRun
from pipelines.options import SPECS
from pipelines.reid_pipeline import person_reid
from reid.spec import load_spec
from reid.spec.facts import InForm
from reid.spec.fields import fields_with

FINGERPRINTS = ("fingerprint", "evaluation_fingerprint")
SLICES = ["manifest", "train", "evaluate", "inference", "export", "gen_trt_engine", "register"]
OF_FIELDS = {fact.parameter for fact in fields_with(InForm).values()}
"""Parameters of the pipeline that are fields of the spec."""
STAGE = '''"""Stands for every stage: writes what its ports ask for, out of what it was given."""
import json
import sys
from collections.abc import Sequence
from pathlib import Path

stage, ports = sys.argv[1], json.loads(sys.argv[3])
given = ports["inputs"].get("parameterValues", {})
kfps_own = {name for name in given if name.startswith("pipelinechannel--")} | {"accelerator_count"}  # no ports
given = {name: value for name, value in given.items() if name not in kfps_own}
for name, listed in sorted(ports["inputs"].get("artifacts", {}).items()):
    given[name] = Path(listed["artifacts"][0]["uri"]).read_text()
outputs, written = ports["outputs"], {}
outputs["artifacts"].pop("executor-logs", None)  # the runner's, no port
for name, listed in outputs.get("artifacts", {}).items():
    artifact = listed["artifacts"][0]
    path = Path(artifact["uri"])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"{stage}.{name} of ({', '.join(f'{key}={value}' for key, value in sorted(given.items()))})")
    metadata = {"mAP": 0.5} if artifact["type"]["schemaTitle"] == "system.Metrics" else {"lines": [stage]}
    written[name] = {"artifacts": [{"name": artifact["name"], "uri": artifact["uri"], "metadata": metadata}]}
for name, entry in outputs.get("parameters", {}).items():
    Path(entry["outputFile"]).parent.mkdir(parents=True, exist_ok=True)
    Path(entry["outputFile"]).write_text("0.5" if name == "mAP" else f"{stage}.{name}")
target = Path(outputs["outputFile"])
target.parent.mkdir(parents=True, exist_ok=True)
target.write_text(json.dumps({"artifacts": written}))
'''


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("compiled") / "pipeline.yaml"
    compile_pipeline(path, spec_text="a: 1\nb: 2\n")
    return path


def tasks_of(path: Path) -> dict[str, ir.Task]:
    return {task.stage: task for task in ir.load(path).tasks}


def test_every_port_of_a_component_is_one_of_its_stage(compiled: Path) -> None:
    for stage, task in tasks_of(compiled).items():
        function = getattr(importlib.import_module(f"reid.stages.{stage}"), stage)
        files = {name for name, schema in task.output_artifacts.items() if schema not in DRAWN}
        assert {"spec", *task.artifacts, *files} <= set(inspect.signature(function).parameters), stage


def test_compiling_twice_gives_the_same_bytes_in_valid_yaml(compiled: Path, tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "again.yaml", spec_text="a: 1\nb: 2\n")
    assert (tmp_path / "again.yaml").read_bytes() == compiled.read_bytes()
    assert [sorted(document) for document in yaml.safe_load_all(compiled.read_text())] == [
        ["components", "deploymentSpec", "pipelineInfo", "root", "schemaVersion", "sdkVersion"],
        ["platforms"],
    ]
    assert ir.load(compiled).defaults == {
        "spec": "a: 1\nb: 2\n",
        "data_claim": "reid-data",
        "gpus": "",
        "embedding_gpus": "",
        "engine_gpus": "",
        **dict.fromkeys(OF_FIELDS, ""),
    }


def test_kfp_itself_reads_the_compiled_file(compiled: Path) -> None:
    from kfp import components

    assert components.load_component_from_file(str(compiled)).name == "person-reid"


def test_the_graph_is_the_one_of_the_architecture(compiled: Path) -> None:
    assert {stage: {name.replace("-", "_") for name in task.needs} for stage, task in tasks_of(compiled).items()} == {
        "validate": set(),
        "manifest": {"validate"},
        "train": {"validate", "manifest"},
        "evaluate": {"validate", "manifest", "train"},
        "inference": {"validate", "manifest", "train"},
        "export": {"validate", "manifest", "train", "evaluate"},
        "gen_trt_engine": {"validate", "manifest", "export"},
        "register": {"validate", "train", "evaluate", "export", "gen_trt_engine"},
    }


def test_the_ports_are_those_of_the_stages(compiled: Path) -> None:
    tasks = tasks_of(compiled)
    assert {stage: sorted(task.artifacts) for stage, task in tasks.items()} == {
        "validate": [],
        "manifest": [],
        "train": ["dataset"],
        "evaluate": ["dataset", "model"],
        "inference": ["dataset", "model"],
        "export": ["dataset", "model"],
        "gen_trt_engine": ["dataset", "onnx"],
        "register": ["engine", "model", "onnx", "parity", "results"],
    }
    assert {
        stage: {name: kind.removeprefix("system.") for name, kind in task.output_artifacts.items() if name != "metrics"}
        for stage, task in tasks.items()
    } == {
        "validate": {"report": "HTML", "summary": "Markdown", "findings": "Artifact"},
        "manifest": {"dataset": "Dataset"},
        "train": {"model": "Model", "report": "HTML"},
        "evaluate": {"results": "Artifact", "report": "HTML", "verification": "ClassificationMetrics"},
        "inference": {"embeddings": "Artifact"},
        "export": {"onnx": "Model", "parity": "Artifact"},
        "gen_trt_engine": {"engine": "Model"},
        "register": {"registration": "Artifact"},
    }
    kinds = {stage: task.output_artifacts.get("metrics") for stage, task in tasks.items()}
    assert kinds == {**dict.fromkeys(tasks, "system.Metrics"), "manifest": None}
    assert {stage: task.output_parameters for stage, task in tasks.items() if task.output_parameters} == {
        "validate": {**dict.fromkeys(FINGERPRINTS, "STRING"), **{f"{stage}_spec": "STRING" for stage in SLICES}},
        "evaluate": {"mAP": "NUMBER_DOUBLE", "thresholds": "STRING"},
        "gen_trt_engine": {"built": "STRING"},
    }


def test_every_later_stage_takes_its_own_slice_and_the_fingerprint_and_only_validate_is_never_cached(
    compiled: Path,
) -> None:
    tasks = tasks_of(compiled)
    assert tasks.pop("validate").cacheable is False
    # Kubeflow's cache does not look at the resources of a task
    own = {
        "gen_trt_engine": {"engine_gpus": ir.PipelineParameter("engine_gpus")},
        "export": {"thresholds": ir.TaskOutput("evaluate", "thresholds")},
    }
    for stage, task in tasks.items():
        assert task.cacheable
        assert task.parameters == {
            "spec": ir.TaskOutput("validate", f"{stage}_spec"),
            "fingerprint": ir.TaskOutput("validate", FINGERPRINTS[stage == "evaluate"]),
            **own.get(stage, {}),
        }
        assert task.command == ("python3", "-m", "components.entry", stage, "--executor-input", "{{$}}")


def test_the_form_of_the_kubeflow_ui_is_explained(compiled: Path) -> None:
    document = next(iter(yaml.safe_load_all(compiled.read_text())))
    assert document["root"]["inputDefinitions"]["parameters"]["spec"]["description"] == (
        "What differs from the defaults of the experiment spec, as YAML on one line. Its data set folders lie\n"
        "below the mounted volume."
    )
    for component in document["components"].values():
        ports = [
            port
            for section in ("inputDefinitions", "outputDefinitions")
            for kind in component.get(section, {}).values()
            for port in kind.values()
        ]
        assert ports
        assert all(port.get("description") for port in ports)


def test_the_form_asks_for_what_is_changed_most_and_validate_gets_it(compiled: Path) -> None:
    root = next(iter(yaml.safe_load_all(compiled.read_text())))["root"]
    given = tasks_of(compiled)["validate"].parameters
    assert {name for name in given if name not in ("spec", "gpus", "embedding_gpus")} == OF_FIELDS
    assert given == {name: ir.PipelineParameter(name) for name in given}
    for field, fact in fields_with(InForm).items():
        entry = root["inputDefinitions"]["parameters"][fact.parameter]
        assert (entry["parameterType"], entry["defaultValue"]) == ("STRING", "")
        assert field in entry["description"] and entry["description"].endswith("; empty: as in the spec.")


def test_without_a_spec_the_form_starts_with_the_published_recipe_on_one_line(tmp_path: Path) -> None:
    compile_pipeline(tmp_path / "pipeline.yaml")
    text = str(ir.load(tmp_path / "pipeline.yaml").defaults["spec"])
    assert "\n" not in text
    assert load_spec(text=text) == load_spec(SPECS / "market.yaml")


def test_a_gpu_is_booked_for_the_stages_that_ask_and_never_for_another(tmp_path: Path) -> None:
    compile_pipeline(
        tmp_path / "pipeline.yaml", resources=Resources(gpus=4, embedding_gpus=2, engine_gpus=1), spec_text=""
    )
    tasks = tasks_of(tmp_path / "pipeline.yaml")
    asked = {stage: task.gpus for stage, task in tasks.items() if task.gpus}
    assert asked == {"train": 4, "evaluate": 2, "inference": 2, "gen_trt_engine": 1}
    assert {stage for stage, task in tasks.items() if task.accelerator} == set(asked)


def test_the_platform_spec_has_shared_memory_and_the_data_volume(compiled: Path) -> None:
    _, platform = yaml.safe_load_all(compiled.read_text())
    executors = platform["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    mounted = {name for name, entry in executors.items() if "pvcMount" in entry}
    reads_images = ("validate", "manifest", "train", "evaluate", "inference", "export", "gen-trt-engine")
    assert mounted == {f"exec-{stage}" for stage in reads_images}
    assert executors["exec-train"]["emptyDirMounts"] == [
        {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "2Gi", "volumeName": "shm"}
    ]


class Containers:
    """Stands where the Docker daemon would: runs a container's command as a process, in the repository at `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.containers = self.images = self
        self.ran: list[str] = []
        self.tags: list[str] = []
        self.attrs: dict[str, list[str]] = {"RepoDigests": []}

    def info(self) -> dict[str, list[str]]:
        return {"SecurityOptions": []}

    def list(self) -> "list[Containers]":
        return [self]

    def pull(self, image: str) -> None:
        self.ran.append(f"pull {image}")

    def run(self, *, image: str, command: Sequence[str], **_: Any) -> "Container":
        self.ran.append(f"run {image} {command[3]}")
        return Container([sys.executable, *command[1:]], self.root)

    def close(self) -> None:
        return


class Container:
    def __init__(self, command: Sequence[str], root: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": str(root), "PYTHONSAFEPATH": "1"}
        self.done = subprocess.run(command, capture_output=True, env=environment, check=False)

    def logs(self, stream: bool) -> list[bytes]:
        return (self.done.stdout + self.done.stderr).splitlines(keepends=True)

    def wait(self) -> dict[str, int]:
        return {"StatusCode": self.done.returncode}


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    (tmp_path / "repository" / "components").mkdir(parents=True)
    (tmp_path / "repository" / "components" / "__init__.py").write_text("")
    (tmp_path / "repository" / "components" / "entry.py").write_text(STAGE)
    return tmp_path / "repository"


def run_here(repository: Path, compiled: Path, results: Path) -> dict[str, Path]:
    stream = io.StringIO()
    report = LocalRun(
        ir.load(compiled),
        {"spec": "the spec"},
        store=Store(results),
        tasks=Processes(repository),
        display=Display(stream, width=14),
        record=RunRecord(results / "runs"),
        tracking=None,
    ).run()
    assert report.exit_status == 0, stream.getvalue()
    return {stage: task.folder for stage, task in report.tasks.items() if task.folder}


@pytest.mark.filterwarnings("ignore:Task .* have no effect in the current local runner")
def test_kfps_docker_runner_accepts_the_pipeline_and_agrees_with_ours(
    repository: Path, compiled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import docker  # type: ignore[import-untyped]
    from kfp import local

    daemon = Containers(repository)
    monkeypatch.setattr(docker, "from_env", lambda: daemon)
    local.init(runner=local.DockerRunner(), pipeline_root=str(tmp_path / "kfp"))
    person_reid(Resources(), "unused")(spec="the spec")
    assert {line.split()[-1]: line.split()[1] for line in daemon.ran if line.startswith("run")} == {
        stage: task.image for stage, task in tasks_of(compiled).items()
    }

    ours = run_here(repository, compiled, tmp_path / "ours")
    theirs = {path.name.replace("-", "_"): path for path in (tmp_path / "kfp").glob("*/*")}
    assert set(ours) == set(theirs)
    for stage, folder in ours.items():
        mine, reference = (json.loads((root / "executor_output.json").read_text()) for root in (folder, theirs[stage]))
        for name, listed in reference["artifacts"].items():
            artifact, expected = mine["artifacts"][name]["artifacts"][0], listed["artifacts"][0]
            assert artifact["metadata"] == expected["metadata"]
            assert Path(artifact["uri"]).read_text() == Path(expected["uri"]).read_text()
        assert set(mine["artifacts"]) == set(reference["artifacts"])
        for file in (folder / "parameters").iterdir():
            assert file.read_text() == (theirs[stage] / file.name).read_text()


def test_what_a_stage_gives_arrives_where_the_graph_says(repository: Path, compiled: Path, tmp_path: Path) -> None:
    folders = run_here(repository, compiled, tmp_path / "ours")
    manifest = "manifest.dataset of (fingerprint=validate.fingerprint, spec=validate.manifest_spec)"
    model = f"train.model of (dataset={manifest}, fingerprint=validate.fingerprint, spec=validate.train_spec)"
    assert (folders["train"] / "model").read_text() == model
    assert (folders["evaluate"] / "results").read_text() == (
        f"evaluate.results of (dataset={manifest}, fingerprint=validate.evaluation_fingerprint, model={model},"
        " spec=validate.evaluate_spec)"
    )
    assert (folders["evaluate"] / "report.html").exists()


def test_a_stage_here_is_given_what_kfp_adds_for_its_resources_too(compiled: Path) -> None:
    tasks = tasks_of(compiled)
    assert tasks["export"].resource_parameters == tasks["validate"].resource_parameters == {}
    for stage, parameter in (("train", "gpus"), ("evaluate", "embedding_gpus"), ("gen_trt_engine", "engine_gpus")):
        booked = ir.PipelineParameter(parameter)
        names = ("accelerator_count", f"pipelinechannel--{parameter}")
        assert tasks[stage].resource_parameters == dict.fromkeys(names, booked)
