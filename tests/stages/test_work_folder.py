"""The work volume: what a delivered stage left is removed by the one that is given it, and nothing else is."""

import os
from pathlib import Path

import pytest

from reid.stages.work_folder import deliver, empty_for, work_folder
from reid.tracking.stage_run import stage_run
from reid.tracking.store import connect
from tests.mlflow_server import free_port


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """With the folders of two runs."""
    monkeypatch.setenv("REID_WORK_DIR", str(tmp_path / "work"))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    for run_id in ("run-2", "run-1"):
        monkeypatch.setenv("KFP_RUN_ID", run_id)
        work = work_folder("train")
        assert work == tmp_path / "work" / run_id / "train"
        (work / "model").mkdir(parents=True)
        (work / "model" / "latest.pth").write_text("weights")
    return tmp_path / "work"


def files(volume: Path) -> list[str]:
    return sorted(str(path.relative_to(volume)) for path in volume.rglob("*") if path.is_file())


@pytest.mark.parametrize("stage", ["validate", "train", "evaluate", "inference", "gen_trt_engine", "register"])
def test_a_stage_that_is_given_no_proof_of_delivery_removes_nothing(volume: Path, stage: str) -> None:
    deliver(volume / "run-1" / "train", {"model": volume.parent / "pod" / "model"})
    empty_for(stage)
    assert files(volume) == ["run-1/train/model/latest.pth", "run-2/train/model/latest.pth"]


def test_export_removes_what_the_training_of_its_run_left_and_works_in_its_own_pod(volume: Path) -> None:
    empty_for("export")
    assert [path.name for path in volume.iterdir()] == ["run-2"]
    assert files(volume) == ["run-2/train/model/latest.pth"]
    empty_for("export")  # a retried one, or one whose training came out of Kubeflow's cache
    assert work_folder("export") is None


def test_a_run_folder_that_holds_more_stays(volume: Path) -> None:
    (volume / "run-1" / "notes").write_text("mine")
    empty_for("export")
    assert files(volume) == ["run-1/notes", "run-2/train/model/latest.pth"]


def test_on_one_machine_nothing_is_removed(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KFP_RUN_ID")
    empty_for("export")
    assert len(files(volume)) == 2


def test_a_folder_that_cannot_be_removed_is_told_and_fails_no_stage(
    volume: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(folder: Path) -> None:
        raise PermissionError(13, "Permission denied", str(folder / "model"))

    # root, as whom tests may run, is refused nothing
    monkeypatch.setattr("reid.stages.work_folder.shutil.rmtree", refuse)
    empty_for("export")
    folder = volume / "run-1" / "train"
    assert caplog.messages == [f"{folder} cannot be removed: [Errno 13] Permission denied: '{folder}/model'"]


@pytest.mark.slow
def test_what_mlflow_did_not_take_is_sent_first_and_until_it_takes_it_the_folder_stays(
    volume: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("reid.tracking.sender.GIVE_UP_S", 1.0)
    folder, uri = volume / "run-1" / "train", f"sqlite:///{volume.parent}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{free_port()}")
    with stage_run("train", folder) as run:
        run.log_metrics({"loss": 0.25}, 1)
    caplog.clear()
    empty_for("export")
    assert caplog.messages[-1] == f"{folder} stays: MLflow has not received all that was logged there"
    assert (folder / "model" / "latest.pth").exists()
    address = folder / "mlflow.json"
    gone = f'"{os.environ["MLFLOW_TRACKING_URI"]}"'
    address.write_text(address.read_text().replace(gone, f'"{uri}"'))  # the server is back
    empty_for("export")
    assert not folder.parent.exists()
    client = connect(uri)
    found = client.search_runs([client.get_experiment_by_name("reid").experiment_id], "tags.stage = 'train'")
    assert [one.data.metrics for one in found] == [{"loss": 0.25}]
