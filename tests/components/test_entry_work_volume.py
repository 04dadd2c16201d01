"""The entry of a stage on a cluster: what a retried attempt finds on the work volume."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import mkdtemp
from types import ModuleType

import pytest

from components.entry import main
from reid.files.writing import write_text
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


@pytest.fixture
def volume_of_another(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process sees and may not write."""
    folder = Path(mkdtemp(dir="/tmp"))  # pytest's own folders are closed to other users
    folder.chmod(0o555)
    user = os.geteuid()
    os.seteuid(user or 65534)  # root may write anywhere
    try:
        yield folder
    finally:
        os.seteuid(user)
        shutil.rmtree(folder)


def test_a_work_volume_that_the_stages_user_may_not_write_is_an_error_that_says_whose_it_is(
    volume_of_another: Path,
    stage: Callable[[Callable[..., Outcome]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stage(lambda spec, **_: Outcome({}, {}))
    monkeypatch.setenv("REID_WORK_DIR", str(volume_of_another))
    monkeypatch.setenv("KFP_RUN_ID", "run-1")
    assert start(Path("/nowhere")) == 2
    owner, user, group = volume_of_another.stat(), os.geteuid(), os.getegid()
    assert capsys.readouterr().err == (
        f"error: {volume_of_another}/run-1/evaluate: the work volume cannot be written\n  found: Permission denied\n"
        "  want:  a volume that the stages' user may write\n"
        f"  who:   this process is user {user}, group {group}; {volume_of_another} belongs to user {owner.st_uid},"
        f" group {owner.st_gid}, mode 555\n"
        '  on a cluster: give the volume to that user, see "Rights" in docs/kubernetes.md: kubectl apply --filename'
        f" k8s/copy/owner.yaml, or on the volume's server chown -R {user}:{group} FOLDER\n"
    )


@pytest.mark.parametrize("wrapped", [False, True])
def test_any_other_folder_that_may_not_be_written_is_told_the_same_way(
    volume_of_another: Path,
    stage: Callable[[Callable[..., Outcome]], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    wrapped: bool,
) -> None:
    file = volume_of_another / "drawn" / "one.jpg"

    def evaluate(spec: Experiment, **_: object) -> Outcome:
        if wrapped:
            write_text(file, "an image")
        file.parent.mkdir()
        return Outcome({}, {})

    stage(evaluate)
    for name in ("KFP_RUN_ID", "REID_WORK_DIR", "MLFLOW_TRACKING_URI", "MLFLOW_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    assert start(Path("/nowhere")) == 2
    owner = volume_of_another.stat()
    assert capsys.readouterr().err == (
        f"error: {file if wrapped else file.parent}: cannot be written\n  found: Permission denied\n"
        f"  who:   this process is user {os.geteuid()}, group {os.getegid()}; {volume_of_another} belongs to user"
        f" {owner.st_uid}, group {owner.st_gid}, mode 555\n"
    )
