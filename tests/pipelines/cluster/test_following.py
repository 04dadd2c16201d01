"""What the command line says of a run on a cluster: each stage's state, why the run failed, and its log."""

import io
from collections.abc import Callable

import pytest

from pipelines.cluster import following
from pipelines.cluster.api import Cluster
from pipelines.cluster.endpoint import Endpoint
from pipelines.cluster.following import follow
from pipelines.run import main
from tests.pipelines.cluster.kfp_server import KfpServer, Moment

Serve = Callable[..., KfpServer]
NO_MEMORY = (
    "Unschedulable: 0/1 nodes are available: 1 Insufficient memory. no new claims to deallocate, preemption: 0/1 nodes"
)
NO_IMAGE = 'ImagePullBackOff: Back-off pulling image "nobody/nothing:v1": ErrImagePull: no such host'
FAILED: list[Moment] = [
    ("RUNNING", {"validate": "RUNNING"}),
    ("FAILED", {"validate": "SUCCEEDED", "train": "FAILED:main: Error (exit code 1)", "evaluate": "OMITTED"}),
]


def lines_of(capsys: pytest.CaptureFixture[str], status: int) -> list[str]:
    assert main(["wait", "run-1"]) == status
    return capsys.readouterr().out.splitlines()


def test_a_failed_run_names_its_stage_the_reason_and_the_last_lines_of_the_log(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FAILED, "run-1")
    said = lines_of(capsys, 1)
    assert "train           failed after 20s" in said
    assert "evaluate        not run" in said
    at = said.index("train failed: main: Error (exit code 1); No more retries left")
    assert said[at + 1].startswith("the last lines of its log (pod reid-x1-system-container-impl-")
    assert said[at + 2 :] == ["  line one", "  red [bold]", "  error: no such thing"]  # nothing of KFP's launcher


@pytest.mark.parametrize("way", ["artifact", "pod", "pages"])
def test_the_log_is_read_by_whichever_way_is_open(serve: Serve, capsys: pytest.CaptureFixture[str], way: str) -> None:
    serve(FAILED, "run-1").beside.logs = {way}
    assert lines_of(capsys, 1)[-1] == "  error: no such thing"


def test_a_log_that_cannot_be_read_is_named_by_the_command_that_shows_it(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FAILED, "run-1").beside.logs = set()
    last = lines_of(capsys, 1)[-1]
    assert last.startswith("its log: kubectl logs -n team reid-x1-system-container-impl-")
    assert last.endswith(" -c main")


def test_without_argos_workflow_the_run_is_told_by_the_states_alone(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FAILED, "run-1").beside.workflows = False
    said = lines_of(capsys, 1)
    assert "evaluate        not run" in said
    assert said[-2:] == ["train failed", "the pods of the run: kubectl get pods -n kubeflow -l pipeline/runid=run-1"]


def test_a_large_workflows_nodes_are_compressed_and_argo_says_why_it_is_over(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    serve(FAILED, "run-1").beside.argo = {"message": "Max duration limit exceeded", "compressed": True}
    said = lines_of(capsys, 1)
    assert said.index("Argo: Max duration limit exceeded") + 1 == said.index(
        "train failed: main: Error (exit code 1); No more retries left"
    )


def test_a_driver_that_fails_is_told_as_the_stages_own(serve: Serve, capsys: pytest.CaptureFixture[str]) -> None:
    server = serve([("RUNNING", {}), ("FAILED", {"train": "DRIVER FAILED:main: Error (exit code 1)"})], "run-1")
    server.beside.driver_failed = True
    said = lines_of(capsys, 1)
    assert "train           not started, for KFP's driver of it failed" in said
    at = said.index("the driver of train failed: main: Error (exit code 1)")
    assert said[at + 2 :] == ["  KFP driver: failed to init podSpecPatch: quantities must match"]


def test_a_pod_that_waits_says_for_what_and_a_try_that_failed_says_so(
    serve: Serve, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "LOOK_AGAIN_S", 0.0)
    running = [
        {"validate": f"DRIVER WAITS:{NO_MEMORY}"},
        {"validate": "WAITS:PodInitializing"},
        {"validate": "SUCCEEDED", "train": f"WAITS:{NO_MEMORY}", "export": f"WAITS:{NO_IMAGE}"},
        {"validate": "SUCCEEDED", "train": "RUNNING", "export": "RUNNING"},
        {"validate": "SUCCEEDED", "train": "RETRIED:pod deleted", "export": "CACHED"},
    ]
    serve([*(("RUNNING", stages) for stages in running), ("SUCCEEDED", {"train": "SUCCEEDED"})], "run-1")
    said = lines_of(capsys, 0)
    node = "waiting for a node: 0/1 nodes are available: 1 Insufficient memory"
    of = {
        stage: [line for line in said if line.startswith(f"{stage:<14}  ")] for stage in ("validate", "train", "export")
    }
    assert of == {
        "validate": [
            f"validate        its driver is {node}",
            "validate        waiting for its pod",
            "validate        done after 20s",
        ],
        "train": [
            f"train           {node}",
            "train           started",
            "train           this try failed (pod deleted); waiting for the next",
            "train           done after 20s",
        ],
        "export": [
            f"export          waiting for its image: {NO_IMAGE}",
            "export          started",
            "export          cached",
        ],
    }


@pytest.mark.parametrize("again", [False, True])
def test_a_run_that_somebody_terminated_is_cancelled_though_kfp_calls_it_failed(
    serve: Serve, capsys: pytest.CaptureFixture[str], again: bool
) -> None:
    terminated: list[Moment] = [("CANCELING", {}), ("FAILED", {"train": "FAILED:Step exceeded its deadline"})]
    if again:  # it is the last try's end that counts
        serve([*terminated, ("PENDING", {}), ("RUNNING", {}), terminated[-1]], "run-1")
        first = main(["wait", "run-1"])
        assert (first, main(["retry", "run-1"])) == (130, 1)
        return
    serve([("RUNNING", {"train": "RUNNING"}), *terminated], "run-1")
    said = lines_of(capsys, 130)
    assert "train           cancelled" in said
    assert any(line.startswith("the run was cancelled") for line in said)
    assert not any("exceeded its deadline" in line for line in said)


def test_the_workflow_is_read_when_something_changed_not_at_each_poll(serve: Serve) -> None:
    server = serve([("RUNNING", {"train": "RUNNING"})] * 20 + [("SUCCEEDED", {"train": "SUCCEEDED"})], "run-1")
    follow(Cluster(Endpoint(server.url)), "run-1", stream=io.StringIO(), poll_s=0)
    assert server.calls.count("GET /apis/v1beta1/runs/run-1") == 2
    assert server.calls.count("GET /apis/v2beta1/runs/run-1") == 21
