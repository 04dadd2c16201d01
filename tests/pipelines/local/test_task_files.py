"""A task's inputs and outputs as files: what KFP's launcher would accept."""

import json
from pathlib import Path

import pytest

from pipelines.ir import Task
from pipelines.local.task_files import Artifact, executor_input, read_outputs
from reid.errors import PipelineError

TASK = Task(
    name="evaluate",
    image="x:1",
    command=("run", "{{$}}"),
    environment={},
    cacheable=True,
    gpus=0,
    parameters={},
    parameter_types={"spec": "STRING"},
    artifacts={},
    output_parameters={"mAP": "NUMBER_DOUBLE", "built": "STRING"},
    output_artifacts={"report": "system.HTML", "metrics": "system.Metrics"},
    needs=frozenset(),
)


def written(folder: Path, executor_output: object, **parameters: str) -> Path:
    (folder / "parameters").mkdir()
    for name, text in parameters.items():
        (folder / "parameters" / name).write_text(text)
    (folder / "report.html").write_text("<html>")
    (folder / "executor_output.json").write_text(json.dumps(executor_output))
    return folder


METRICS = {"artifacts": {"metrics": {"artifacts": [{"name": "metrics", "uri": "x", "metadata": {"mAP": 0.5}}]}}}


def test_the_executor_input_is_kfps() -> None:
    made = executor_input(
        TASK,
        parameters={"spec": "a: 1"},
        artifacts={"model": Artifact(Path("/r/model"), "system.Model", {"lines": ["x"]})},
        folder=Path("/r/evaluate"),
        file_names={"metrics": "metrics.json"},
    )
    kind = {"schemaTitle": "system.Model", "schemaVersion": "0.0.1"}
    assert made["inputs"] == {
        "parameterValues": {"spec": "a: 1"},
        "artifacts": {
            "model": {"artifacts": [{"name": "model", "type": kind, "uri": "/r/model", "metadata": {"lines": ["x"]}}]}
        },
    }
    assert made["outputs"]["parameters"] == {
        "built": {"outputFile": "/r/evaluate/parameters/built"},
        "mAP": {"outputFile": "/r/evaluate/parameters/mAP"},
    }
    uris = {name: entry["artifacts"][0]["uri"] for name, entry in made["outputs"]["artifacts"].items()}
    assert uris == {
        "metrics": "/r/evaluate/metrics.json",
        "report": "/r/evaluate/report.html",
        "executor-logs": "/r/evaluate/log.txt",  # KFP's driver adds it to every task
    }
    assert made["outputs"]["outputFile"] == "/r/evaluate/executor_output.json"


def test_outputs_are_read_from_files_and_metadata(tmp_path: Path) -> None:
    outputs = read_outputs(TASK, written(tmp_path, METRICS, mAP="0.5", built="true"), {})
    assert outputs.parameters == {"mAP": 0.5, "built": "true"}  # a STRING stays one
    assert outputs.metrics == {"mAP": 0.5}
    assert outputs.artifacts["report"].path == tmp_path / "report.html"


def test_the_executor_output_wins_over_the_files(tmp_path: Path) -> None:
    outputs = read_outputs(
        TASK, written(tmp_path, METRICS | {"parameterValues": {"mAP": 0.7}}, mAP="0.5", built="x"), {}
    )
    assert outputs.parameters["mAP"] == 0.7


def test_a_field_that_kfps_parser_does_not_know_is_refused(tmp_path: Path) -> None:
    written(tmp_path, METRICS | {"lines": []}, mAP="0.5", built="true")
    with pytest.raises(PipelineError) as caught:
        read_outputs(TASK, tmp_path, {})
    path = tmp_path / "executor_output.json"
    assert str(caught.value) == (
        f"{path}: damaged, or of another kind\n  field: lines\n  found: []\n  want:  no such field"
    )


def test_nan_is_no_json_number(tmp_path: Path) -> None:
    written(tmp_path, {"parameterValues": {"mAP": float("nan")}}, built="true")
    with pytest.raises(PipelineError) as caught:
        read_outputs(TASK, tmp_path, {})
    path = tmp_path / "executor_output.json"
    assert str(caught.value) == f"{path}: damaged, or of another kind\n  found: the number NaN\n  want:  JSON"


def test_a_number_that_is_none_is_refused(tmp_path: Path) -> None:
    written(tmp_path, METRICS, mAP="high", built="true")
    with pytest.raises(PipelineError) as caught:
        read_outputs(TASK, tmp_path, {})
    assert str(caught.value) == "evaluate: output parameter 'mAP' is 'high'\n  want: NUMBER_DOUBLE"


def test_a_declared_artifact_that_is_neither_written_nor_listed_is_missed(tmp_path: Path) -> None:
    written(tmp_path, {}, mAP="0.5", built="true")
    with pytest.raises(PipelineError) as caught:
        read_outputs(TASK, tmp_path, {})
    assert str(caught.value) == "evaluate: ended well, but its output artifact 'metrics' is neither written nor listed"
