"""The MLflow runs of a run of Kubeflow Pipelines, against a real SQLite store."""

from pathlib import Path

import pytest

from reid.tracking.pipeline_run import end_runs_of_kfp_run
from reid.tracking.store import KFP_RUN, PARENT, STAGE, connect


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
    tmp_path: Path, parent_status: str, status: str, wanted: int
) -> None:
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = connect(uri)
    place = client.create_experiment("tests", artifact_location=tmp_path.as_uri())
    parent, other = (client.create_run(place, tags={KFP_RUN: name}).info.run_id for name in ("run-1", "run-2"))
    done, lost = (
        client.create_run(place, tags={PARENT: parent, STAGE: stage}).info.run_id for stage in ("validate", "train")
    )
    client.set_terminated(done, end_time=7)
    if parent_status != "RUNNING":
        client.set_terminated(parent, parent_status)

    assert end_runs_of_kfp_run(uri, "run-1", status) == wanted
    states = [client.get_run(run_id).info.status for run_id in (parent, lost, done, other)]
    assert states == [status, status, "FINISHED", "RUNNING"]
    assert client.get_run(done).info.end_time == 7
    assert end_runs_of_kfp_run(uri, "run-1", status) == 0
    assert end_runs_of_kfp_run(uri, "unknown", status) == 0
