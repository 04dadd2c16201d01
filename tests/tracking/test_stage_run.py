"""MLflow runs against a real SQLite store."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from reid.errors import MissingDependency, TrackingError
from reid.tracking.journal import Address
from reid.tracking.pipeline_run import PipelineRun, open_pipeline_run
from reid.tracking.stage_run import StageRun, stage_run
from reid.tracking.store import PARENT, connect, load_mlflow


@pytest.fixture
def pipeline(tmp_path: Path) -> PipelineRun:
    return open_pipeline_run(
        tracking_uri=f"sqlite:///{tmp_path}/mlflow.db",
        experiment="tests",
        run_name="first",
        tags={"spec": "demo"},
        params={"re_ranking": {"k1": 20}, "results_dir": "/r"},
        results_dir=tmp_path / "results",
    )


def enter(pipeline: PipelineRun, run_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", pipeline.tracking_uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", run_id)


def test_a_pipeline_run_carries_the_flattened_spec(pipeline: PipelineRun) -> None:
    run = connect(pipeline.tracking_uri).get_run(pipeline.run_id)
    assert run.data.params == {"re_ranking.k1": "20", "results_dir": "/r"}
    assert run.data.tags["spec"] == "demo"
    assert run.info.run_name == "first"


def test_a_stage_logs_to_its_nested_run_and_its_figures_reach_the_parent(
    pipeline: PipelineRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_id = pipeline.start_stage("evaluate", tmp_path / "stage")
    enter(pipeline, run_id, monkeypatch)
    picture = tmp_path / "cmc.svg"
    picture.write_text("<svg/>")
    with stage_run("evaluate", tmp_path / "stage") as run:
        assert run.active
        run.log_series("cmc", [0.5, 0.75])
        run.log_outcome({"mAP": 0.6})
        run.log_artifact(picture, "plots")
    pipeline.finish_stage(tmp_path / "stage", "FINISHED")
    pipeline.finish("FINISHED")
    client = connect(pipeline.tracking_uri)
    nested = client.get_run(run_id)
    assert nested.data.tags[PARENT] == pipeline.run_id
    assert nested.info.status == "FINISHED"
    assert nested.data.metrics == {"cmc": 0.75, "mAP": 0.6}
    assert [(row.step, row.value) for row in client.get_metric_history(run_id, "cmc")] == [(1, 0.5), (2, 0.75)]
    assert [entry.path for entry in client.list_artifacts(run_id, "plots")] == ["plots/cmc.svg"]
    assert client.get_run(pipeline.run_id).data.metrics == {"cmc": 0.75, "mAP": 0.6}


def test_training_figures_stand_on_the_parent_under_the_stage(
    pipeline: PipelineRun, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    enter(pipeline, pipeline.start_stage("train", tmp_path / "stage"), monkeypatch)
    with stage_run("train", tmp_path / "stage") as run:
        run.log_metrics({"loss": 2.0}, step=1)
        run.log_metrics({"loss": 1.0}, step=2)
    history = connect(pipeline.tracking_uri).get_metric_history(pipeline.run_id, "train/loss")
    assert [(row.step, row.value) for row in history] == [(1, 2.0), (2, 1.0)]


def test_a_cached_stage_copies_its_figures_and_opens_no_run(pipeline: PipelineRun, tmp_path: Path) -> None:
    Address(pipeline.tracking_uri, "evaluate", "a" * 32).save(tmp_path)
    pipeline.copy_cached("evaluate", {"mAP": 0.5}, tmp_path)
    pipeline.finish("FINISHED")
    client = connect(pipeline.tracking_uri)
    parent = client.get_run(pipeline.run_id)
    assert parent.data.metrics == {"mAP": 0.5}
    assert parent.data.tags["cached.evaluate"] == "true"
    assert parent.data.tags["cached_run.evaluate"] == "a" * 32
    assert parent.info.status == "FINISHED"
    assert len(client.search_runs([pipeline.experiment_id])) == 1


def test_without_a_named_server_nothing_is_logged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with stage_run("train", tmp_path) as run:
        assert not run.active
        run.log_metrics({"loss": 1.0}, 1)
        run.log_params({"a": 1})
        run.log_artifact(Path("nowhere"))


def test_runs_of_a_killed_runner_are_closed_by_the_next(pipeline: PipelineRun, tmp_path: Path) -> None:
    code = (
        "import os, signal; from reid.tracking.pipeline_run import open_pipeline_run\n"
        "from pathlib import Path\n"
        f"store, folder = {pipeline.tracking_uri!r}, Path({str(tmp_path / 'killed')!r})\n"
        "run = open_pipeline_run("
        "tracking_uri=store, experiment='tests', run_name='x', tags={}, params={}, results_dir=folder)\n"
        "print(run.run_id, run.start_stage('train', folder), flush=True); os.kill(os.getpid(), signal.SIGKILL)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    orphan, nested = done.stdout.split()
    client = connect(pipeline.tracking_uri)
    assert client.get_run(orphan).info.status == "RUNNING"
    open_pipeline_run(
        tracking_uri=pipeline.tracking_uri, experiment="tests", run_name="y", tags={}, params={}, results_dir=tmp_path
    )
    assert client.get_run(orphan).info.status == "KILLED"
    assert client.get_run(nested).info.status == "KILLED"
    assert client.get_run(pipeline.run_id).info.status == "RUNNING"


def test_a_store_that_cannot_be_written_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"this is no database, and long enough to be seen as such by sqlite" * 20)
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    with pytest.raises(
        TrackingError, match=r"^MLflow at sqlite:///.*is no SQLite database: it begins with b'this is no datab'"
    ):
        open_pipeline_run(tracking_uri=uri, experiment="tests", run_name="x", tags={}, params={}, results_dir=tmp_path)


def test_no_run_is_a_run_that_swallows(tmp_path: Path) -> None:
    run = StageRun.none()
    run.log_outcome({"mAP": 1.0})
    run.flush()
    assert not run.active


def test_a_missing_mlflow_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(MissingDependency) as caught:
        load_mlflow("sqlite:///here.db")
    assert str(caught.value) == (
        "MLflow: no module mlflow; it comes with pip install -e '.[mlflow]' in the repository's root"
    )
