"""Several pipelines at once on a real MLflow server over a real PostgreSQL, as on a cluster."""

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from reid.errors import TrackingError
from reid.tracking.pipeline_run import figures_of_kfp_run
from reid.tracking.stage_run import stage_run
from reid.tracking.store import KFP_RUN, PARENT, connect
from tests.mlflow_server import MlflowServer, free_port
from tests.postgres import postgres

pytestmark = pytest.mark.slow

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MlflowServer]:
    with postgres() as database:
        one = MlflowServer(tmp_path_factory.mktemp("mlflow"), database=database).start()
        yield one
        one.kill()


def pods(server: MlflowServer, folder: Path, run_id: str, *stages: str) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("MLFLOW_RUN", "KFP_"))}
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tracking_pod", str(folder), *stages],
        env={**environment, "MLFLOW_TRACKING_URI": server.uri, "KFP_RUN_ID": run_id, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_pipelines_at_once_have_one_parent_each_and_one_nested_run_a_stage(
    server: MlflowServer, tmp_path: Path
) -> None:
    running = [  # two pods of each run start at the same moment: each finds or makes experiment, parent and its own run
        pods(server, tmp_path / run / which, run, *stages)
        for run in ("run-a", "run-b")
        for which, stages in {"one": ["validate", "train!"], "two": ["evaluate!", "export"]}.items()
    ]
    for process in running:
        said = process.communicate(timeout=240)[1]
        assert process.returncode == 0, said
    client = connect(server.uri)
    places = [client.get_experiment_by_name("cluster").experiment_id]
    for run_id in ("run-a", "run-b"):
        (parent,) = client.search_runs(places, f"tags.`{KFP_RUN}` = '{run_id}'")
        assert parent.info.status == "FINISHED"
        assert parent.info.run_name == "the third"
        assert parent.data.params == {"re_ranking.k1": "20"}
        assert [entry.path for entry in client.list_artifacts(parent.info.run_id)] == ["spec.yaml"]
        assert parent.data.metrics["mAP"] == 0.5  # evaluate's stands for the pipeline
        assert figures_of_kfp_run(server.uri, run_id) == parent.data.metrics
        nested = client.search_runs(places, f"tags.`{PARENT}` = '{parent.info.run_id}'")
        assert sorted(run.data.tags["stage"] for run in nested) == ["evaluate", "export", "train", "validate"]
        assert {run.info.status for run in nested} == {"FINISHED"}
        train = next(run for run in nested if run.data.tags["stage"] == "train")
        for logged, name in ((train.info.run_id, "loss"), (parent.info.run_id, "train/loss")):
            steps = [row.step for row in client.get_metric_history(logged, name)]
            assert sorted(steps) == list(range(1, 21))  # once each, though the retried pod logged them again


def enter(monkeypatch: pytest.MonkeyPatch, variables: Mapping[str, str]) -> None:
    for name in ("MLFLOW_RUN_ID", "KFP_RUN_ID", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)


def test_where_kfps_own_plugin_made_the_runs_a_stage_logs_into_its_own(
    server: MlflowServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = connect(server.uri)
    place = client.create_experiment("plugin")
    parent = client.create_run(place, tags={KFP_RUN: "run-p"}).info.run_id
    task = client.create_run(place, tags={PARENT: parent}).info.run_id
    enter(monkeypatch, {"MLFLOW_TRACKING_URI": server.uri, "MLFLOW_RUN_ID": task, "KFP_RUN_ID": "run-p"})
    with stage_run("evaluate", tmp_path) as run:
        run.log_outcome({"mAP": 0.7})
    assert len(client.search_runs([place])) == 2
    assert client.get_run(task).data.metrics == client.get_run(parent).data.metrics == {"mAP": 0.7}
    assert client.get_run(task).info.status == "RUNNING"  # the launcher closes it


def test_without_its_mlflow_server_the_first_stage_refuses_and_a_later_one_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reid.tracking.sender.GIVE_UP_S", 0.5)
    monkeypatch.setattr("reid.tracking.first_contact.WAIT_S", 0.5)
    uri = f"http://127.0.0.1:{free_port()}"
    enter(monkeypatch, {"MLFLOW_TRACKING_URI": uri, "KFP_RUN_ID": "run-x"})
    with pytest.raises(TrackingError, match=f"^MLflow at {uri}: "), stage_run("validate", tmp_path / "v", first=True):
        pass
    with stage_run("train", tmp_path / "t") as run:
        run.log_metrics({"loss": 1.0}, 1)
    assert (tmp_path / "t" / "mlflow.jsonl").stat().st_size > 0
