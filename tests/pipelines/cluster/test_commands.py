"""A run on a cluster that was submitted before, a recurring run, and names that are hard for a server."""

from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.cluster.api import Cluster
from pipelines.cluster.endpoint import Endpoint
from pipelines.cluster.schedule import cron_of
from pipelines.run import main
from reid.errors import PipelineError
from tests.pipelines.cluster.kfp_server import KfpServer, Moment

Serve = Callable[..., KfpServer]
LIFE: list[Moment] = [
    ("RUNNING", {"train": "RUNNING"}),
    ("FAILED", {"train": "FAILED:main: Error (exit code 1)"}),
    ("RUNNING", {"train": "RUNNING"}),
    ("SUCCEEDED", {"train": "SUCCEEDED"}),
]


def submit(tmp_path: Path, *options: str) -> int:
    return main(["--spec", "demo", *options, f"results_dir={tmp_path}/results"])


def test_a_detached_run_is_picked_up_looked_at_and_retried(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(LIFE)
    assert submit(tmp_path, "--detach") == 0
    said = capsys.readouterr().out
    assert said.endswith("not followed; to pick it up: python -m pipelines wait run-1\n")
    assert server.asked == 0
    name = server.runs["run-1"]["display_name"]
    assert main(["status", "run-1"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert said == [f"{name} (run-1)", "train           started", "the run is going on"]
    assert main(["wait", name]) == 1
    assert "train failed: main: Error (exit code 1); No more retries left" in capsys.readouterr().out
    assert main(["cancel", "run-1"]) == 2
    assert capsys.readouterr().err == "error: run run-1: is over: it failed\n  want: a run that goes on\n"
    assert main(["retry", "run-1"]) == 0
    assert "train           done after 20s" in capsys.readouterr().out.splitlines()
    assert "POST /apis/v2beta1/runs/run-1:retry" in server.calls
    assert main(["retry", "run-1"]) == 2
    assert capsys.readouterr().err == (
        "error: run run-1: is over: it succeeded\n  want: a run that failed or was cancelled\n"
    )


def test_cancel_ends_a_run_and_waits_for_its_end(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    life: list[Moment] = [("RUNNING", {"train": "RUNNING"}), ("CANCELING", {}), ("FAILED", {"train": "FAILED"})]
    server = serve(life, "run-1")
    main(["status", "run-1"])
    assert main(["cancel", "run-1"]) == 0
    assert "POST /apis/v2beta1/runs/run-1:terminate" in server.calls
    assert "the run was cancelled" in capsys.readouterr().out


def test_a_run_is_found_by_its_name_or_the_beginning_of_its_id_if_there_is_one_such_run(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(LIFE, "run-1", "run-2", "run-3")  # over two pages
    for run in server.runs.values():
        run["display_name"] = "nightly"
    assert main(["status", "nightly"]) == 2
    assert capsys.readouterr().err == (
        "error: run 'nightly': 3 runs are called so\n  want: the id of one of them: run-3, run-2, run-1\n"
    )
    assert main(["status", "run"]) == 2  # too short to stand for an id
    assert capsys.readouterr().err == (
        f"error: run 'run': no such run at {server.url}\n"
        "  want: the id of a run, its first 4 characters or more, or its name\n"
    )


def test_a_recurring_run_has_the_seconds_that_kfp_wants_and_replaces_the_one_of_its_name(
    serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server = serve(LIFE)
    assert submit(tmp_path, "--every", "0 3 * * mon") == 0
    (made,) = server.recurring.values()
    assert made["trigger"] == {"cron_schedule": {"cron": "0 0 3 * * mon"}}
    assert (made["display_name"], made["mode"], made["max_concurrency"]) == ("demo", "ENABLE", "1")
    assert server.runs == {}
    assert "demo: version demo-" in capsys.readouterr().out
    assert submit(tmp_path, "--every", "30 0 3 * * *") == 0
    assert [row["trigger"]["cron_schedule"]["cron"] for row in server.recurring.values()] == ["30 0 3 * * *"]
    assert (
        "runs at 30 0 3 * * * (second, minute, hour, day, month, day of the week), instead of the one of this name"
        in (capsys.readouterr().out)
    )


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("0 3 * *", "'0 3 * *', which has 4 fields"),
        ("60 3 * * *", "'60' as minute"),
        ("0 3 * * 7", "'7' as day of the week"),
        ("0 5-3 * * *", "'5-3' as hour"),
        ("0 */0 * * *", "'*/0' as hour"),
        ("0 3 0 * *", "'0' as day of the month"),
        ("0 3 * dec-13 *", "'dec-13' as month"),
    ],
)
def test_a_schedule_that_is_none_names_its_field(text: str, found: str) -> None:
    with pytest.raises(PipelineError) as caught:
        cron_of(text)
    assert str(caught.value).startswith(f"--every: found {found}\n  want: five fields as in a crontab, e.g. ")


def test_a_schedule_may_hold_lists_ranges_steps_and_names() -> None:
    assert cron_of("*/5 1-3,22 ? JAN-mar sun,2-5/2") == "0 */5 1-3,22 ? JAN-mar sun,2-5/2"


@pytest.mark.parametrize("option", [["--detach"], ["--every", "0 3 * * *"]])
def test_detach_and_every_want_a_cluster(
    option: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("KFP_ENDPOINT", raising=False)
    assert main(["--spec", "demo", "--runner", "process", *option]) == 2
    assert capsys.readouterr().err == (
        "error: --detach, --every: found no cluster\n  want: the address of its API in KFP_ENDPOINT\n"
    )


@pytest.mark.parametrize("name", ["a+b", "50% x", "c%2Bd", "ü \"q\" \\ 'x' & = ?"])
def test_an_experiment_of_any_name_is_found_again(serve: Serve, name: str) -> None:
    server = serve(LIFE)
    cluster = Cluster(Endpoint(server.url))
    assert cluster.experiment(name) == cluster.experiment(name) == "experiment-1"
    assert [row["display_name"] for row in server.experiments] == [name]


def test_what_another_command_made_at_the_same_moment_is_taken(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    server = serve(LIFE)
    cluster = Cluster(Endpoint(server.url))
    create = cluster._experiments.experiment_service_create_experiment

    def twice(body: object, **options: object) -> object:
        create(body, **options)
        return create(body, **options)  # 409

    monkeypatch.setattr(cluster._experiments, "experiment_service_create_experiment", twice)
    assert cluster.experiment("a+b") == "experiment-1"
