"""The entry of a stage on a cluster: what a retried attempt finds on the work volume."""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

from components.entry import main
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking.stage_run import StageRun
from tests.components.executor import executor_input, start


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
