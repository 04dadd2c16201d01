"""The MLflow runs of a run of Kubeflow Pipelines, against a real SQLite store."""

import contextlib
from pathlib import Path

import pytest
from mlflow import MlflowClient

from reid.tracking.pipeline_run import end_runs_of_kfp_run
from reid.tracking.stage_run import stage_run
from reid.tracking.store import KFP_RUN, PARENT, STAGE, connect


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return f"sqlite:///{tmp_path_factory.mktemp('store')}/mlflow.db"


@pytest.mark.parametrize(
    ("parent_status", "status", "wanted"),
    [
        ("RUNNING", "KILLED", 2),  # the pod was killed
        ("FINISHED", "FAILED", 2),  # a later stage never started: its image was not found
        ("FAILED", "FAILED", 1),
        ("FINISHED", "FINISHED", 1),
    ],
)
def test_a_run_of_kubeflow_that_is_over_leaves_no_mlflow_run_running(
    uri: str, parent_status: str, status: str, wanted: int
) -> None:
    client, name = connect(uri), f"{parent_status}-{status}"
    place = client.create_experiment(name, artifact_location="file:///none")
    parent, other = (client.create_run(place, tags={KFP_RUN: run}).info.run_id for run in (name, f"not-{name}"))
    done, lost = (
        client.create_run(place, tags={PARENT: parent, STAGE: stage}).info.run_id for stage in ("validate", "train")
    )
    client.set_terminated(done, end_time=7)
    if parent_status != "RUNNING":
        client.set_terminated(parent, parent_status)

    assert end_runs_of_kfp_run(uri, name, status) == wanted
    states = [client.get_run(run_id).info.status for run_id in (parent, lost, done, other)]
    assert states == [status, status, "FINISHED", "RUNNING"]
    assert client.get_run(done).info.end_time == 7
    assert end_runs_of_kfp_run(uri, name, status) == 0
    assert end_runs_of_kfp_run(uri, "unknown", status) == 0


def started_by_plugin(client: MlflowClient, kfp_run_id: str) -> tuple[str, str]:
    """Makes what Kubeflow's plugin makes before a pod starts: the parent, and a nested run for each of two tasks."""
    place = client.create_experiment(kfp_run_id, artifact_location="file:///none")
    tags = {KFP_RUN: kfp_run_id, "kfp.pipeline_run_url": ""}
    parent = client.create_run(place, run_name="a run", tags=tags).info.run_id
    for task in ("train", "gen-trt-engine"):
        nested = client.create_run(place, run_name=task, tags={PARENT: parent}).info.run_id
    return parent, nested


@pytest.mark.parametrize("plugin", ["off", "on", "on, injectUserEnvVars"])
def test_a_task_has_one_nested_run_however_kubeflows_own_plugin_is_set(
    uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, plugin: str
) -> None:
    client = connect(uri)
    parent, task = started_by_plugin(client, plugin) if plugin != "off" else ("", "")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("KFP_RUN_ID", plugin)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    if plugin == "on, injectUserEnvVars":
        monkeypatch.setenv("MLFLOW_RUN_ID", task)
    with contextlib.suppress(OSError), stage_run("gen_trt_engine", tmp_path / "pod-1", experiment=plugin):
        raise OSError("the node is gone")
    if plugin != "off":  # a launcher that is left ends its task's run
        client.set_terminated(task, "FAILED")
    with stage_run("gen_trt_engine", tmp_path / "pod-2", experiment=plugin) as run:
        run.log_outcome({"mAP": 0.7})

    runs = client.search_runs([client.get_experiment_by_name(plugin).experiment_id])
    nested = [run for run in runs if run.data.tags.get(STAGE) == "gen_trt_engine"]
    (one,) = [run for run in runs if PARENT not in run.data.tags]
    assert [run.data.metrics for run in nested] == [{"mAP": 0.7}]
    assert one.data.metrics == {"mAP": 0.7}
    if plugin == "off":
        assert (len(runs), one.info.status, nested[0].info.status) == (2, "FINISHED", "FINISHED")
    else:
        assert (len(runs), one.info.run_id, nested[0].info.run_id) == (3, parent, task)
        assert one.info.status == "RUNNING"  # the API server ends it
