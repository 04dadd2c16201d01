"""The end of a run on a cluster: its figures, its page, and MLflow's runs of it."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipelines.run import main
from reid.tracking.store import KFP_RUN, PARENT, connect
from tests.pipelines.cluster.kfp_server import KfpServer, Moment

Serve = Callable[..., KfpServer]
GOOD: list[Moment] = [("RUNNING", {"evaluate": "RUNNING"}), ("SUCCEEDED", {"evaluate": "CACHED"})]


def test_the_figures_are_those_of_kfps_own_metrics_if_its_web_server_is_there(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(GOOD, "run-1")
    server.beside.pages = True
    server.beside.metadata = {"another": {"mAP": 0.5}, "run-1": {"mAP": 0.668294, "rank1": 0.825, "rank5": 0.968}}
    assert main(["wait", "run-1"]) == 0
    said = capsys.readouterr().out
    assert "after training   66.8     82.5     96.8" in said
    assert (
        said.count(f"{server.url}/#/runs/details/run-1\n") == 1
    )  # the endpoint has pages, so that it is no dead address
    assert "KFP_UI" not in said


@pytest.mark.parametrize("pages", [False, True])
def test_figures_that_cannot_be_had_say_why(serve: Serve, capsys: pytest.CaptureFixture[str], pages: bool) -> None:
    serve(GOOD, "run-1").beside.pages = pages
    assert main(["wait", "run-1"]) == 0
    web = "Kubeflow's web server gives none" if pages else "KFP_UI names no web server of Kubeflow"
    assert f"figures: none found for this run: MLFLOW_TRACKING_URI names no MLflow, {web}" in (
        capsys.readouterr().out.splitlines()
    )


@pytest.fixture
def mlflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, str]:
    """A store and its address, which the command finds in its environment."""
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return connect(uri), uri


@pytest.mark.slow
def test_the_figures_are_those_that_mlflow_has_of_this_run(
    serve: Serve, mlflow: tuple[Any, str], capsys: pytest.CaptureFixture[str]
) -> None:
    client, uri = mlflow
    place = client.create_experiment("demo")
    for run_id, mAP in (("run-0", 0.1), ("run-1", 0.7654)):
        parent = client.create_run(place, tags={KFP_RUN: run_id}).info.run_id
        client.create_run(place, tags={KFP_RUN: run_id, PARENT: parent})
        client.log_metric(parent, "mAP", mAP)
    serve(GOOD, "run-1")
    assert main(["wait", "run-1"]) == 0
    said = capsys.readouterr().out
    assert "after training   76.5" in said
    serve(GOOD, "run-2")  # of which MLflow knows nothing
    assert main(["wait", "run-2"]) == 0
    assert f"figures: none found for this run: MLflow at {uri} has none, KFP_UI names no" in capsys.readouterr().out


@pytest.mark.slow
def test_what_a_run_that_is_over_left_running_in_mlflow_is_ended(
    serve: Serve, mlflow: tuple[Any, str], capsys: pytest.CaptureFixture[str]
) -> None:
    client, _ = mlflow
    place = client.create_experiment("demo")
    parent = client.create_run(place, tags={KFP_RUN: "run-1"}).info.run_id
    nested = client.create_run(place, tags={KFP_RUN: "run-1", PARENT: parent}).info.run_id
    serve([("RUNNING", {"train": "RUNNING"}), ("CANCELING", {}), ("FAILED", {"train": "FAILED"})], "run-1")
    assert main(["wait", "run-1"]) == 130
    assert "MLflow: ended what was still running there (2), as KILLED" in capsys.readouterr().out
    assert {client.get_run(run_id).info.status for run_id in (parent, nested)} == {"KILLED"}
