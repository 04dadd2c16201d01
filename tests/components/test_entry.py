"""The entry of every stage: the JSON of a runner in, files that every runner reads out."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from components.entry import ProgressOrRecord, main, read_ports
from reid.errors import DatasetError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun

ROOT = Path(__file__).resolve().parents[2]


def listed(name: str, uri: str, schema: str, **more: str) -> dict[str, Any]:
    kind = {"schemaTitle": schema, "schemaVersion": "0.0.1"}
    return {"artifacts": [{"name": f"{name}-17", "type": kind, "uri": uri, "metadata": {}, **more}]}


EXECUTOR_LOGS = {
    "executor-logs": {
        "artifacts": [
            {
                "name": "executor-logs",
                "type": {"schemaTitle": "system.Artifact", "schemaVersion": "0.0.1"},
                "uri": "minio://mlpipeline/v2/artifacts/person-reid/5f0c/evaluate/9d41/executor-logs",
                "metadata": {},
            }
        ]
    }
}
"""What the driver of KFP 2.17 adds to the outputs of every task, unless the cluster sets PUBLISH_LOGS=false."""


def executor_input(folder: Path, spec: str = "results_dir: /r\n") -> str:
    """What a runner starts the evaluate stage with."""
    ports = {
        "inputs": {
            "parameterValues": {"spec": spec, "fingerprint": "f1"},
            "artifacts": {
                "dataset": listed("dataset", str(folder / "dataset"), "system.Dataset"),
                "model": listed("model", str(folder / "model"), "system.Model"),
            },
        },
        "outputs": {
            "parameters": {"mAP": {"outputFile": str(folder / "out" / "mAP")}},
            "artifacts": {
                "metrics": listed("metrics", str(folder / "out" / "metrics"), "system.Metrics"),
                "results": listed("results", str(folder / "out" / "results"), "system.Artifact"),
                "report": listed("report", str(folder / "out" / "report"), "system.HTML"),
                **EXECUTOR_LOGS,
            },
            "outputFile": str(folder / "kfp_outputs" / "output_metadata.json"),
        },
    }
    return json.dumps(ports)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Outcome]], None]:
    """Puts a function in the place of the evaluate stage."""

    def put(function: Callable[..., Outcome]) -> None:
        module = ModuleType("reid.stages.evaluate")
        module.evaluate = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "reid.stages.evaluate", module)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return put


def start(folder: Path, **options: str) -> int:
    return main(["evaluate", "--executor-input", executor_input(folder, **options)])


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
                "artifacts": [{"name": "metrics-17", "uri": f"{uri}/metrics", "metadata": {"mAP": 0.71, "rank1": 0.88}}]
            },
            "report": {
                "artifacts": [
                    {
                        "name": "report-17",
                        "uri": f"{uri}/report",
                        "metadata": {"lines": ["mAP 71.0", "rank-1 88.0"]},
                    }
                ]
            },
            "results": {"artifacts": [{"name": "results-17", "uri": f"{uri}/results", "metadata": {}}]},
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
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None]
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
    ports["outputs"]["artifacts"]["a-trace"] = listed("a-trace", str(tmp_path / "trace"), "system.Artifact")
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 0
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())
    assert set(written["artifacts"]) == {"metrics", "results", "report"}
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


def test_a_figure_that_is_no_number_is_left_out_loudly(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], caplog: pytest.LogCaptureFixture
) -> None:
    stage(lambda spec, *, run, **_: Outcome({"mAP": float("nan"), "rank1": 1}, {"mAP": 0.5}))
    assert start(tmp_path) == 0
    written = json.loads((tmp_path / "kfp_outputs" / "output_metadata.json").read_text())
    assert written["artifacts"]["metrics"]["artifacts"][0]["metadata"] == {"rank1": 1.0}
    assert "metric mAP is nan: left out" in caplog.text


def test_what_validate_said_of_the_spec_is_not_said_again_by_the_stages_after_it(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], caplog: pytest.LogCaptureFixture
) -> None:
    spec = "evaluate: {checkpoint: mine.pth}\ntrain: {optim: {momentum: 0.5}}\n"
    stage(lambda spec, *, run, **_: Outcome({}, {"mAP": 0.5}))
    assert start(tmp_path, spec=spec) == 0
    assert caplog.messages == []
    names = ["dataset", "report", "summary", "findings"]
    ports = {
        "inputs": {"parameterValues": {"spec": spec}},
        "outputs": {
            "artifacts": {name: listed(name, str(tmp_path / name), "system.Artifact") for name in names},
            "outputFile": str(tmp_path / "executor_output.json"),
        },
    }
    caplog.clear()
    assert main(["validate", "--executor-input", json.dumps(ports)]) == 2  # there is no data set
    assert caplog.messages == [
        "spec: train.optim.momentum has no effect: Adam has no momentum of this kind",
        "evaluate.checkpoint has no effect in a pipeline: the model comes from the stage train",
    ]


def test_a_mistake_of_the_user_is_a_text_and_status_2(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(spec: Experiment, *, run: StageRun, **_: Path) -> Outcome:
        raise DatasetError("data/query: no such folder\n  want: images")

    stage(evaluate)
    assert start(tmp_path) == 2
    assert capsys.readouterr().err == "error: data/query: no such folder\n  want: images\n"
    assert start(tmp_path, spec="modle: {}") == 2
    assert capsys.readouterr().err == "error: spec: modle: unknown key; did you mean model?\n"
    assert not (tmp_path / "kfp_outputs").exists()


def test_a_fault_of_ours_is_a_traceback_and_status_1(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stage(lambda spec, *, run, **_: Outcome({}, {}))
    assert start(tmp_path) == 1
    assert capsys.readouterr().err.endswith("KeyError: 'mAP'\n")


def test_an_interrupted_stage_ends_with_130(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(spec: Experiment, *, run: StageRun, **_: Path) -> Outcome:
        raise KeyboardInterrupt

    stage(evaluate)
    assert start(tmp_path) == 130
    assert capsys.readouterr().err == "interrupted\n"


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


def test_progress_is_marked_and_other_lines_say_where_they_come_from() -> None:
    formatter = ProgressOrRecord("%(levelname)s %(name)s: %(message)s")

    def line(name: str) -> str:
        return formatter.format(logging.LogRecord(name, logging.INFO, "", 0, "train: %d/25", (3,), None))

    assert line("reid.progress") == "progress: train: 3/25"
    assert line("reid.data.store") == "INFO reid.data.store: train: 3/25"


def test_the_command_of_the_images_runs_the_real_validate_stage_and_loads_neither_torch_nor_kfp(tmp_path: Path) -> None:
    names = ["dataset", "report", "summary", "findings"]
    slices = [f"{name}_spec" for name in ("train", "evaluate", "inference", "export", "gen_trt_engine", "register")]
    spec = (
        f"results_dir: {tmp_path}\nmodel: {{pretrain_choice: ''}}\n"
        f"dataset: {{num_classes: null, synthetic: {{root: {tmp_path}/drawn, train_persons: 4, test_persons: 2,"
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


@pytest.mark.parametrize(("gpus", "wanted"), [(0, 3), (4, 4)])
def test_the_gpus_of_the_form_win_over_the_specs(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], gpus: int, wanted: int
) -> None:
    seen: list[int] = []

    def evaluate(spec: Experiment, **_: object) -> Outcome:
        seen.extend([spec.evaluate.num_gpus, spec.inference.num_gpus, spec.train.num_gpus])
        return Outcome({"mAP": 0.5}, {"mAP": 0.5})

    stage(evaluate)
    ports = json.loads(executor_input(tmp_path, spec="evaluate: {num_gpus: 3}\ninference: {num_gpus: 3}\n"))
    ports["inputs"]["parameterValues"]["embedding_gpus"] = str(gpus)
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 0
    assert seen == [wanted, wanted, 1]


def test_a_mistaken_number_of_gpus_in_the_form_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = json.loads(executor_input(tmp_path))
    ports["inputs"]["parameterValues"]["gpus"] = "two"
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 2
    assert capsys.readouterr().err == (
        "error: pipeline parameter gpus: found 'two'\n  want: a whole number of GPUs, from 0\n"
    )


def test_a_retried_step_finds_on_the_work_volume_what_the_pod_before_left(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    attempts: list[list[str]] = []

    def evaluate(spec: Experiment, *, results: Path, report: Path, run: StageRun, **_: Path) -> Outcome:
        results.mkdir(parents=True, exist_ok=True)
        attempts.append(sorted(path.name for path in results.iterdir()))
        (results / f"checkpoint-{len(attempts)}").write_text("weights")
        if len(attempts) == 1:
            raise OSError("the node is gone")
        report.write_text("<html>")
        return Outcome({"mAP": 0.5}, {"mAP": 0.5})

    stage(evaluate)
    assert start(tmp_path / "pod-1") == 1
    assert not (tmp_path / "pod-1" / "out" / "results").exists()
    assert start(tmp_path / "pod-2") == 0
    assert attempts == [[], ["checkpoint-1"]]
    delivered = tmp_path / "pod-2" / "out"
    assert sorted(path.name for path in (delivered / "results").iterdir()) == ["checkpoint-1", "checkpoint-2"]
    assert (delivered / "report").read_text() == "<html>"
    assert start(tmp_path / "pod-3") == 0  # the launcher could not upload what the second pod delivered
    assert attempts[-1] == ["checkpoint-1", "checkpoint-2"]
    monkeypatch.setenv("KFP_RUN_ID", "run-2")
    assert start(tmp_path / "pod-4") == 0
    assert attempts[-1] == []  # another run of the pipeline begins anew


def test_on_one_machine_the_work_volume_of_the_compiled_pipeline_is_passed_over(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.delenv("KFP_RUN_ID", raising=False)

    def evaluate(spec: Experiment, *, report: Path, **_: object) -> Outcome:
        assert report == tmp_path / "out" / "report"
        return Outcome({"mAP": 0.5}, {"mAP": 0.5})

    stage(evaluate)
    assert start(tmp_path) == 0
    assert not (tmp_path / "work").exists()


def test_a_pipeline_that_was_compiled_to_be_encrypted_runs_only_with_a_key(
    tmp_path: Path,
    stage: Callable[[Callable[..., Outcome]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage(lambda spec, *, run, **_: Outcome({}, {"mAP": 0.5}))
    command = ["evaluate", "--encrypted", "--executor-input", executor_input(tmp_path)]
    for nothing in (None, ""):  # no secret; one that is empty
        if nothing is None:
            monkeypatch.delenv("REID_ENCRYPTION_KEY", raising=False)
        else:
            monkeypatch.setenv("REID_ENCRYPTION_KEY", nothing)
        assert main(command) == 2
        assert capsys.readouterr().err == (
            "error: REID_ENCRYPTION_KEY: found no key\n  want: one, for the spec was compiled to be encrypted\n"
        )
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "hush")
    assert main(command) == 0


def test_export_empties_the_work_volume_of_its_run_and_leaves_its_own_results_to_the_launcher(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def export(spec: Experiment, *, results: Path, run: StageRun, **_: Path) -> Outcome:
        assert results == tmp_path / "out" / "results"
        raise OSError("fails after it was given the model")

    module = ModuleType("reid.stages.export")
    module.export = export  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "reid.stages.export", module)
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    (tmp_path / "work" / "run-1" / "train" / "model").mkdir(parents=True)
    (tmp_path / "work" / "run-2" / "train" / "model").mkdir(parents=True)
    assert main(["export", "--executor-input", executor_input(tmp_path)]) == 1
    assert [path.name for path in (tmp_path / "work").iterdir()] == ["run-2"]
