"""The train stage of a training on several nodes: what it submits, says and returns, whatever happens to the nodes."""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from components.nodes.files import as_end, write_end
from components.nodes.job import job_name
from components.nodes.launch import train_on_nodes
from components.nodes.settings import Nodes
from reid.errors import PipelineError, ReidError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from tests.components.nodes.crd import faults
from tests.components.nodes.kubernetes_api import KubernetesApi
from tests.components.nodes.own_pod import RUN_ID

NAME = job_name(RUN_ID)
OUTCOME = Outcome({"train_loss": 4.5}, lines=["3 epochs"])
NODES = Nodes(count=2, gpus=1, resources={"limits": {"memory": "1G"}})
NO_ROOM = {
    "type": "PodScheduled",
    "status": "False",
    "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}


@pytest.fixture
def work(tmp_path: Path) -> Path:
    (tmp_path / "manifest.json").write_text('{"fingerprint": "f1"}')
    return tmp_path / "work"


@pytest.fixture
def train(work: Path, caplog: pytest.LogCaptureFixture) -> Callable[[], Outcome]:
    caplog.set_level(logging.INFO, logger="components.nodes")

    def start() -> Outcome:
        return train_on_nodes(
            Experiment.model_construct(),  # no field of it is read on the way
            text="train: {num_nodes: 2}",
            nodes=NODES,
            dataset=work.parent / "manifest.json",
            work=work,
            model=work / "model",
            report=work / "report",
        )

    return start


def finish(api: KubernetesApi, work: Path) -> None:
    write_end(work, 0, as_end(OUTCOME))
    api.end_job(NAME, "Complete")


def test_it_submits_follows_and_gives_what_node_0_gave(
    api: KubernetesApi,
    train: Callable[[], Outcome],
    work: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    jobs = []

    def controllers(job: dict[str, Any]) -> None:
        jobs.append(job)
        pods = [api.start_node(NAME, number, conditions=[NO_ROOM]) for number in range(2)]
        api.seen()
        for pod in pods:
            api.set_state(pod, state={"waiting": {"reason": "ContainerCreating"}})
        api.seen()
        for pod in pods:
            api.set_state(pod, state={"running": {}})
        api.say(pods[0], "progress: epoch 1/3", "12:00:01 INFO    reid: loss 5.0")
        api.say(pods[1], "of node 1, not shown")
        api.seen(pods[0])
        api.say(pods[0], "progress: epoch 2/3")
        finish(api, work)

    api.created = controllers
    assert train() == OUTCOME
    assert api.calls == [f"create {NAME}"]
    assert list(faults({key: jobs[0][key] for key in ("apiVersion", "kind", "metadata", "spec")})) == []
    assert jobs[0]["spec"]["trainer"]["command"] == [
        *("python3", "-m", "components.nodes.node"),
        str(work / "request.json"),
    ]
    assert (work / "request.json").read_text() == '{\n "spec": "train: {num_nodes: 2}"\n}\n'
    assert (work / "dataset").read_text() == '{"fingerprint": "f1"}'
    assert capsys.readouterr().err == "progress: epoch 1/3\n12:00:01 INFO    reid: loss 5.0\nprogress: epoch 2/3\n"
    assert caplog.messages == [
        f"TrainJob {NAME}: 2 nodes, 1 processes each; kubectl --namespace kubeflow get trainjob,pods"
        f" --selector jobset.sigs.k8s.io/jobset-name={NAME}",
        "node 0 waits: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        "node 1 waits: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
        f"node 0 runs: pod {NAME}-node-0-0-aaaaa on gpu-0",
        f"node 1 runs: pod {NAME}-node-0-1-aaaaa on gpu-1",
    ]


def test_a_lost_pod_and_a_container_that_starts_again_are_said_and_their_log_goes_on(
    api: KubernetesApi,
    train: Callable[[], Outcome],
    work: Path,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        first, other = api.start_node(NAME, 0), api.start_node(NAME, 1)
        api.say(first, "the first pod")
        api.seen(first)
        api.ended.add(first)
        del api.pods[first]
        second = api.start_node(NAME, 0, suffix="bbbbb")
        api.say(second, "the second pod")
        api.set_state(
            other, restartCount=1, state={"running": {}}, lastState={"terminated": {"exitCode": 1, "reason": "Error"}}
        )
        api.seen(second)
        api.set_state(second, restartCount=1, state={"running": {}}, lastState={"terminated": {"exitCode": 137}})
        api.say(second, "its second start")
        finish(api, work)

    api.created = controllers
    assert train() == OUTCOME
    assert capsys.readouterr().err == "the first pod\nthe second pod\nits second start\n"
    said = [message for message in caplog.messages if "runs" not in message][1:]
    assert said[:2] == [
        f"node 0: pod {NAME}-node-0-0-aaaaa is gone; {NAME}-node-0-0-bbbbb takes its place",
        "node 1 ended with exit status 1; started again (1)",
    ]
    # the last look may come after the end of the job
    assert said[2:] in ([], ["node 0 ended with exit status 137; started again (1)"])


def test_a_stage_that_starts_again_follows_the_job_that_it_began(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    api.jobs[NAME] = {"metadata": {"name": NAME}}
    api.start_node(NAME, 0)
    threading.Timer(0.1, finish, args=(api, work)).start()
    assert train() == OUTCOME
    assert train() == OUTCOME  # and one that has finished is not begun again
    assert api.calls == []
    assert [message for message in caplog.messages if "already" in message] == [
        f"TrainJob {NAME}: it runs already",
        f"TrainJob {NAME}: it has finished already",
    ]


@pytest.mark.parametrize("state", ["Failed", "Complete"])
def test_a_failed_job_of_an_earlier_attempt_and_one_without_results_are_begun_anew(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path, state: str
) -> None:
    api.jobs[NAME] = {"metadata": {"name": NAME}}
    api.end_job(NAME, state)
    write_end(work, 1, {"exit_status": 1, "error": "of the earlier attempt"})
    api.created = lambda _: finish(api, work)
    assert train() == OUTCOME
    assert api.calls == [f"delete {NAME}", f"create {NAME}"]
    assert [file.name for file in (work / "nodes").iterdir()] == ["0.json"]


def test_a_job_that_is_being_deleted_is_waited_for(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path
) -> None:
    api.jobs[NAME] = {"metadata": {"name": NAME, "deletionTimestamp": "2026-11-27T09:00:00Z"}}
    threading.Timer(0.1, api.jobs.pop, args=(NAME,)).start()
    api.created = lambda _: finish(api, work)
    assert train() == OUTCOME
    assert api.calls == [f"create {NAME}"]


def test_a_job_that_another_pod_created_in_the_same_moment_is_followed(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = iter([None])

    def job_is_not_there_yet(path: str, query: dict[str, list[str]]) -> Any:
        if path.endswith(NAME) and next(asked, "no more") is None:
            api.jobs[NAME] = {"metadata": {"name": NAME}}
            threading.Timer(0.6, finish, args=(api, work)).start()
            return 404, {"kind": "Status", "message": "not found"}
        return get(path, query)

    get = api._get
    monkeypatch.setattr(api, "_get", job_is_not_there_yet)
    assert train() == OUTCOME
    assert api.calls == [f"create {NAME}"]  # answered with 409


def test_an_api_that_is_away_for_a_while_ends_nothing(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        api.away = True
        api.seen()
        api.away = False
        finish(api, work)

    api.created = controllers
    assert train() == OUTCOME
    assert f"Kubernetes does not answer, asking again: TrainJob {NAME}: apiserver is shutting down" in caplog.messages
    assert len(caplog.messages) < 5


def test_an_error_of_a_node_that_the_user_can_correct_is_the_stages_own(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        pod = api.start_node(NAME, 1)
        write_end(work, 0, {"exit_status": 1, "error": "node 1 is gone"})
        write_end(work, 1, {"exit_status": 2, "error": "/data/train: no such folder"})
        api.set_state(pod, state={"terminated": {"exitCode": 2}})

    api.created = controllers
    with pytest.raises(ReidError) as caught:
        train()
    assert str(caught.value) == "/data/train: no such folder"
    assert api.calls == [f"create {NAME}", f"delete {NAME}"]  # it would only be started again


def test_a_job_that_failed_is_an_error_with_the_last_lines_and_stays_to_be_looked_at(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        api.say(api.start_node(NAME, 0), *(f"line {number}" for number in range(30)))
        api.seen()
        api.end_job(NAME, "Failed", "jobset failed due to one or more job failures")

    api.created = controllers
    with pytest.raises(PipelineError) as caught:
        train()
    quoted = "".join(f"  | line {number}\n" for number in range(10, 30))
    assert str(caught.value) == (
        f"TrainJob {NAME}: Failed: jobset failed due to one or more job failures\n  the last lines of node 0:\n{quoted}"
        "  the checkpoints stay: a retried run resumes from them"
    )
    assert api.calls == [f"create {NAME}"]


def test_a_crash_of_a_node_is_quoted_with_its_number(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        write_end(work, 1, {"exit_status": 1, "error": "Traceback …\nRuntimeError: NCCL"})
        api.end_job(NAME, "Failed", "BackoffLimitExceeded")

    api.created = controllers
    with pytest.raises(PipelineError) as caught:
        train()
    assert "Failed: BackoffLimitExceeded\n  node 1: Traceback …\nRuntimeError: NCCL\n" in str(caught.value)


def test_a_job_that_somebody_deletes_is_an_error(api: KubernetesApi, train: Callable[[], Outcome]) -> None:
    api.created = lambda _: api.jobs.pop(NAME)
    with pytest.raises(PipelineError, match=f"^TrainJob {NAME}: it was deleted\n  none of its nodes wrote anything\n"):
        train()


def test_a_pod_that_is_stopped_deletes_the_job_within_the_third_of_a_second_that_argo_leaves_it(
    api: KubernetesApi, train: Callable[[], Outcome]
) -> None:
    stopped: list[float] = []

    def controllers(_: dict[str, Any]) -> None:
        api.say(api.start_node(NAME, 0), "trains")
        api.seen()
        stopped.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGTERM)
        while f"delete {NAME}" not in api.calls:
            time.sleep(0.005)
        stopped.append(time.monotonic())

    api.created = controllers
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # as the entry does
    with pytest.raises(KeyboardInterrupt):
        train()
    assert api.calls[:2] == [f"create {NAME}", f"delete {NAME}"]
    assert stopped[1] - stopped[0] < 0.3


RIGHTS = 'kubectl apply --kustomize k8s/trainer; see "Several nodes" in docs/kubernetes.md'


@pytest.mark.parametrize(
    ("right", "name", "doing"),
    [
        ("get trainjobs", NAME, f"TrainJob {NAME}"),
        ("create trainjobs", NAME, f"TrainJob {NAME}"),
        ("get persistentvolumeclaims", "reid-data", "PersistentVolumeClaim reid-data"),
    ],
)
def test_a_missing_right_is_named_with_the_manifest_that_has_it(
    api: KubernetesApi, train: Callable[[], Outcome], right: str, name: str, doing: str
) -> None:
    api.forbidden = {right}
    with pytest.raises(PipelineError) as caught:
        train()
    verb, kind = right.split()
    assert str(caught.value) == (
        f"{doing}: Kubernetes refuses it to the stage's account\n"
        f'  found: {kind} "{name}" is forbidden: User "system:serviceaccount:kubeflow:reid-pipeline" cannot {verb}'
        f' resource "{kind}"\n  want:  the right to {right}: {RIGHTS}'
    )


def test_without_the_right_to_see_the_log_the_training_goes_on_and_one_line_says_so(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def controllers(_: dict[str, Any]) -> None:
        api.say(api.start_node(NAME, 0), "trains")
        api.seen()
        finish(api, work)

    api.created, api.forbidden = controllers, {"get pods/log"}
    assert train() == OUTCOME
    (said,) = [message for message in caplog.messages if "the nodes' log cannot be shown here" in message]
    assert said.endswith(f"want:  the right to get pods/log: {RIGHTS}")


def test_a_cluster_without_kubeflow_trainer_is_an_error_that_says_what_to_install(
    api: KubernetesApi, train: Callable[[], Outcome]
) -> None:
    api.installed = False
    with pytest.raises(PipelineError) as caught:
        train()
    assert str(caught.value) == (
        f"TrainJob {NAME}: Kubeflow Trainer is not installed in this cluster, and train.num_nodes is above 1\n"
        "  want: Kubeflow Trainer 2.3 (https://www.kubeflow.org/docs/components/trainer), or train.num_nodes=1"
    )


def test_a_runtime_of_the_namespace_is_preferred_and_one_that_is_missing_is_an_error(
    api: KubernetesApi, train: Callable[[], Outcome], work: Path
) -> None:
    api.runtimes = set()
    with pytest.raises(PipelineError) as caught:
        train()
    assert str(caught.value).startswith(
        "training_runtime: no TrainingRuntime or ClusterTrainingRuntime torch-distributed\n"
        "  want: one for PyTorch whose replicated job and container are named node;"
    )
    api.runtimes = {(kind, "torch-distributed") for kind in ("trainingruntimes", "clustertrainingruntimes")}
    kinds: list[str] = []

    def controllers(job: dict[str, Any]) -> None:
        kinds.append(job["spec"]["runtimeRef"]["kind"])
        finish(api, work)

    api.created = controllers
    assert train() == OUTCOME
    assert kinds == ["TrainingRuntime"]


def test_a_volume_that_one_node_alone_can_mount_is_an_error_before_anything_is_submitted(
    api: KubernetesApi, train: Callable[[], Outcome]
) -> None:
    api.claims["reid-work"] = ["ReadWriteOnce"]
    with pytest.raises(PipelineError) as caught:
        train()
    assert str(caught.value) == (
        "PersistentVolumeClaim reid-work: found ReadWriteOnce\n  want: ReadWriteMany, for 2 nodes mount it at once;"
        ' see "Several nodes" in docs/kubernetes.md'
    )
    assert api.calls == []
