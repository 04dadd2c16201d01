"""The entry of every stage: what it reads of the form and the spec, what it says, and how it ends."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from components.entry import ProgressOrRecord, main
from reid.errors import DatasetError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun
from tests.components.executor import executor_input, listed, start


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
    stage(lambda spec, *, run, **_: Outcome({"mAP": 1 / 0}))
    assert start(tmp_path) == 1
    assert capsys.readouterr().err.endswith("ZeroDivisionError: division by zero\n")


def test_an_interrupted_stage_ends_with_130(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def evaluate(spec: Experiment, *, run: StageRun, **_: Path) -> Outcome:
        raise KeyboardInterrupt

    stage(evaluate)
    assert start(tmp_path) == 130
    assert capsys.readouterr().err == "interrupted\n"


def test_progress_is_marked_and_other_lines_say_where_they_come_from() -> None:
    formatter = ProgressOrRecord("%(levelname)s %(name)s: %(message)s")

    def line(name: str) -> str:
        return formatter.format(logging.LogRecord(name, logging.INFO, "", 0, "train: %d/25", (3,), None))

    assert line("reid.progress") == "progress: train: 3/25"
    assert line("reid.data.store") == "INFO reid.data.store: train: 3/25"


@pytest.mark.parametrize(("gpus", "wanted"), [("", 3), ("0", 3), ("4", 4)])
def test_the_gpus_of_the_form_win_over_the_specs(
    tmp_path: Path, stage: Callable[[Callable[..., Outcome]], None], gpus: str, wanted: int
) -> None:
    seen: list[int] = []

    def evaluate(spec: Experiment, **_: object) -> Outcome:
        seen.extend([spec.evaluate.num_gpus, spec.inference.num_gpus, spec.train.num_gpus])
        return Outcome({"mAP": 0.5}, {"mAP": 0.5})

    stage(evaluate)
    ports = json.loads(executor_input(tmp_path, spec="evaluate: {num_gpus: 3}\ninference: {num_gpus: 3}\n"))
    ports["inputs"]["parameterValues"]["embedding_gpus"] = gpus
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 0
    assert seen == [wanted, wanted, 1]


def test_a_mistaken_number_of_gpus_in_the_form_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ports = json.loads(executor_input(tmp_path))
    ports["inputs"]["parameterValues"]["gpus"] = "two"
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 2
    assert capsys.readouterr().err == (
        "error: pipeline parameter gpus: found 'two'\n  want: a whole number of GPUs, from 0\n"
    )


def test_a_mistaken_field_in_the_form_is_told_by_the_name_of_its_parameter(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ports = json.loads(executor_input(tmp_path))
    ports["inputs"]["parameterValues"] |= {"epochs": "ten", "seed": ""}
    assert main(["evaluate", "--executor-input", json.dumps(ports)]) == 2
    assert capsys.readouterr().err == (
        "error: pipeline parameter epochs: train.num_epochs: found 'ten' (str); want: a whole number\n"
    )


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
