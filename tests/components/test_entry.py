"""The entry of every stage: the JSON of a runner in, files that every runner reads out."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.entry import main, read_ports
from reid.spec import Experiment
from reid.spec.facts import STAGES
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun
from tests.components.executor import EXECUTOR_LOGS, executor_input, listed, start

ROOT = Path(__file__).resolve().parents[2]


def test_a_stage_gets_paths_and_the_runner_gets_files(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None]
) -> None:
    seen: dict[str, Any] = {}

    def evaluate(
        spec: Experiment, *, dataset: Path, model: Path, results: Path, report: Path, run: StageRun
    ) -> Outcome:
        seen.update(spec=spec.results_dir, paths=[dataset, model, results, report], logs=run.active)
        report.parent.mkdir(parents=True)
        report.write_text("<html>")
        return Outcome({"mAP": 0.71, "rank1": 0.88}, {"mAP": 0.71}, ["mAP 71.0", "rank-1 88.0"])

    stage(evaluate)
    assert start(tmp_path) == 0
    assert seen["spec"] == "/r"
    assert seen["paths"] == [tmp_path / name for name in ("dataset", "model", "out/results", "out/report")]
    assert seen["logs"] is False
    assert (tmp_path / "out" / "mAP").read_text() == "0.71"
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())
    uri = tmp_path / "out"
    assert written == {
        "parameterValues": {"mAP": 0.71},
        "artifacts": {
            "metrics": {
                "artifacts": [{"name": "metrics", "uri": f"{uri}/metrics", "metadata": {"mAP": 0.71, "rank1": 0.88}}]
            },
            "report": {
                "artifacts": [
                    {
                        "name": "report",
                        "uri": f"{uri}/report",
                        "metadata": {"lines": ["mAP 71.0", "rank-1 88.0"]},
                    }
                ]
            },
            "results": {"artifacts": [{"name": "results", "uri": f"{uri}/results", "metadata": {}}]},
        },
    }
    assert json.loads((tmp_path / "out" / "metrics").read_text()) == {"mAP": 0.71, "rank1": 0.88}


def test_a_stage_that_asks_for_the_fingerprint_gets_it(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None]
) -> None:
    seen = []

    def evaluate(spec: Experiment, *, fingerprint: str, run: StageRun, **_: Path) -> Outcome:
        seen.append(fingerprint)
        return Outcome({}, {"mAP": 0.0})

    stage(evaluate)
    assert start(tmp_path) == 0
    assert seen == ["f1"]


def test_ports_that_the_stage_does_not_declare_are_passed_over(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], caplog: pytest.LogCaptureFixture
) -> None:
    def evaluate(
        spec: Experiment, *, dataset: Path, model: Path, results: Path, report: Path, run: StageRun
    ) -> Outcome:
        return Outcome({}, {"mAP": 0.71}, ["mAP 71.0"])

    stage(evaluate)
    ports = json.loads(executor_input(tmp_path))
    ports["inputs"]["parameterValues"]["retries"] = 2
    ports["inputs"]["artifacts"]["weather"] = listed("weather", str(tmp_path / "weather"), "system.Artifact")
    ports["inputs"]["artifacts"]["nothing"] = {}
    ports["outputs"]["parameters"]["weather"] = {"outputFile": str(tmp_path / "out" / "weather")}
    ports["outputs"]["artifacts"]["a-trace"] = listed("a-trace", str(tmp_path / "trace"), "system.Artifact")
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 0
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())
    assert set(written["artifacts"]) == {"metrics", "results", "report"}
    assert written["parameterValues"] == {"mAP": 0.71}
    assert caplog.messages == ["output parameter weather: left out, for the stage gives no such value"]
    assert not (tmp_path / "out" / "weather").exists()
    assert written["artifacts"]["report"]["artifacts"][0]["metadata"] == {"lines": ["mAP 71.0"]}


@pytest.mark.parametrize(("side", "port"), [("inputs", "model"), ("outputs", "report")])
def test_a_port_that_the_stage_declares_and_the_runner_does_not_give_is_an_error(
    tmp_path: Path,
    stage: Callable[[Callable[..., Outcome]], None],
    capsys: pytest.CaptureFixture[str],
    side: str,
    port: str,
) -> None:
    def evaluate(
        spec: Experiment, *, dataset: Path, model: Path, results: Path, report: Path, run: StageRun
    ) -> Outcome:
        return Outcome({}, {"mAP": 0.71})

    stage(evaluate)
    ports = json.loads(executor_input(tmp_path))
    del ports[side]["artifacts"][port]
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 1
    assert capsys.readouterr().err.endswith(f"missing 1 required keyword-only argument: '{port}'\n")
    assert not (tmp_path / "kfp_outputs").exists()


@pytest.mark.parametrize(
    ("uri", "custom", "path"),
    [
        ("gs://bucket/a/model", "", "/gcs/bucket/a/model"),
        ("s3://bucket/model", "", "/s3/bucket/model"),
        ("minio://mlpipeline/v2/model", "", "/minio/mlpipeline/v2/model"),
        ("/results/model", "", "/results/model"),
        ("s3://bucket/model", "/mnt/model", "/mnt/model"),
    ],
)
def test_an_address_becomes_the_local_path_of_kfps_rule(uri: str, custom: str, path: str) -> None:
    more = {"customPath": custom} if custom else {}
    inputs = {"artifacts": {"model": listed("model", uri, "system.Model", **more)}}
    ports = read_ports(json.dumps({"inputs": inputs, "outputs": {"outputFile": "/tmp/x"}}))
    assert str(ports.inputs["model"].path) == path
    assert ports.inputs["model"].uri == uri
    assert ports.outputs == {}


def test_the_command_of_the_images_runs_the_real_validate_stage_and_loads_neither_torch_nor_kfp(tmp_path: Path) -> None:
    names = ["report", "summary", "findings"]
    slices = [f"{stage}_spec" for stage in STAGES[1:]]
    spec = (
        f"results_dir: {tmp_path}\nmodel: {{pretrain_choice: ''}}\n"
        f"dataset: {{num_classes: null, batch_size: 8, synthetic: {{root: {tmp_path}/drawn, train_persons: 4,"
        " test_persons: 2,"
        " images_per_camera: 1, distractors: 1, junk: 1, cameras: 2, width: 16, height: 32}}"
    )
    ports = {
        "inputs": {"parameterValues": {"spec": spec}},
        "outputs": {
            "parameters": {name: {"outputFile": str(tmp_path / name)} for name in ["fingerprint", *slices]},
            "artifacts": {name: listed(name, str(tmp_path / name), "system.Artifact") for name in names}
            | {"metrics": listed("metrics", str(tmp_path / "metrics"), "system.Metrics")}
            | EXECUTOR_LOGS,
            "outputFile": str(tmp_path / "executor_output.json"),
        },
    }
    code = (
        "import runpy, sys\ntry: runpy.run_module('components.entry', run_name='__main__')\n"
        "finally: print(sorted({'torch', 'mlflow', 'kfp'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW")}
    done = subprocess.run(
        [sys.executable, "-c", code, "validate", "--executor-input", json.dumps(ports)],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[]\n"
    written = json.loads((tmp_path / "executor_output.json").read_text())
    assert set(written["artifacts"]) == {*names, "metrics"}
    assert set(written["parameterValues"]) == {"fingerprint", *slices}


def test_what_the_user_interface_draws_is_metadata_and_no_port_of_the_stage(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None]
) -> None:
    roc = {"confidenceMetrics": [{"confidenceThreshold": 0.5, "recall": 1.0, "falsePositiveRate": 0.1}]}

    def evaluate(spec: Experiment, *, report: Path, run: StageRun, **_: Path) -> Outcome:
        return Outcome({"mAP": 0.5}, {"mAP": 0.5}, [], {"verification": roc})

    stage(evaluate)
    ports = json.loads(executor_input(tmp_path))
    where = str(tmp_path / "out" / "verification")
    ports["outputs"]["artifacts"]["verification"] = listed("verification", where, "system.ClassificationMetrics")
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 0
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())
    assert written["artifacts"]["verification"]["artifacts"][0]["metadata"] == roc
