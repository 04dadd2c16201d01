"""Tasks as containers: the same small pipeline as with processes, in a real Docker daemon."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipelines.ir import Task
from pipelines.local.containers import LABEL, Containers, bind, docker_size
from pipelines.local.docker_engine import Engine, engine
from pipelines.local.processes import Running
from pipelines.local.run_report import RunReport
from reid.errors import PipelineError
from tests.docker_daemon import docker, docker_daemon, python_image  # noqa: F401 - a fixture
from tests.pipelines.mini import MiniRepository

ROOT = Path(__file__).resolve().parents[3]
NOBODY = 12345


@pytest.fixture(scope="module")
def image(docker_daemon: None) -> str:  # noqa: F811
    return python_image()


@pytest.fixture
def repository(image: str, tmp_path: Path) -> MiniRepository:
    return MiniRepository(tmp_path / "repo", tmp_path / "results", containers=True).write(image)


def states(report: RunReport) -> dict[str, str]:
    return {stage: task.state for stage, task in report.tasks.items()}


def running(repository: MiniRepository) -> list[str]:
    return docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={repository.results}").split()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def task(image: str, code: str, **settings: object) -> Task:
    """A task that runs this code; {{$}} is its argument."""
    facts = {"name": "train", "image": image, "command": ("python3", "-c", code, "{{$}}"), "environment": {}}
    empty = ("parameters", "parameter_types", "artifacts", "output_parameters", "output_artifacts")
    facts |= {"cacheable": True, "gpus": 0, "needs": frozenset(), **{name: {} for name in empty}}
    return Task(**{**facts, **settings})  # type: ignore[arg-type]


def containers(folder: Path, mounts: dict[Path, bool] | None = None, **environment: str) -> Containers:
    return Containers(engine(), folder, mounts=lambda _: mounts or {}, environment=environment)


def said(started: Running) -> list[str]:
    started.process.wait(timeout=60)
    started.close()
    return started.last_words(20)


def run(folder: Path, wanted: Task, mounts: dict[Path, bool] | None = None, **environment: str) -> list[str]:
    log = folder / "log.txt"
    return said(containers(folder, mounts).start(wanted, executor_input={}, log=log, environment=environment))


@pytest.mark.slow
def test_the_pipeline_runs_in_containers_as_it_does_in_processes(repository: MiniRepository) -> None:
    report = repository.run(make={"text": "a"}, left={"text": "b"}, right={"text": "c"}, join={"text": "d"})
    assert report.exit_status == 0, repository.said
    joined = report.tasks["join"].outputs
    assert (joined.artifacts["data"].path / "text").read_text() == "a b a c d"
    assert joined.metrics == {"score": 9.0}
    given = json.loads((report.tasks["left"].folder or Path()).joinpath("task.json").read_text())
    assert set(given["key_parts"]) == {"component", "spec", "score", "source", "image"}
    assert running(repository) == []
    again = repository.run(make={"text": "a"}, left={"text": "b"}, right={"text": "c"}, join={"text": "d"})
    assert set(states(again).values()) == {"cached"}


@pytest.mark.slow
def test_another_image_under_the_same_name_runs_everything_again(repository: MiniRepository, image: str) -> None:
    docker("tag", image, "reid-test/moving:1")
    repository.compile("reid-test/moving:1")
    repository.run()
    change = "FROM reid-test/moving:1\nLABEL changed=yes\n"
    command = ["docker", "build", "--quiet", "--tag", "reid-test/moving:1", "-"]
    subprocess.run(command, input=change, text=True, check=True, capture_output=True)
    assert set(states(repository.run()).values()) == {"ran"}
    assert "make   started (changed: image)" in repository.said


@pytest.mark.slow
def test_a_failed_container_shows_its_last_words_and_its_exit_status(repository: MiniRepository) -> None:
    report = repository.run(left={"exit": 2, "last_words": "what a pity"})
    assert report.exit_status == 2
    assert states(report) == {"make": "ran", "left": "failed", "right": "ran", "join": "not run"}
    assert "exit status 2" in repository.said
    assert "| what a pity" in repository.said
    assert running(repository) == []


@pytest.mark.slow
def test_a_killed_runner_leaves_no_container_and_the_next_run_continues(repository: MiniRepository) -> None:
    spec = {"left_spec": json.dumps({"steps": 60, "step_s": 0.1})}
    runner = drive(repository, spec)
    wait_for(lambda: steps_done(repository) >= 3)
    assert len(running(repository)) == 1
    runner.kill()
    runner.communicate()
    wait_for(lambda: running(repository) == [])
    done = steps_done(repository)
    assert 3 <= done < 60
    again = drive(repository, spec)
    text, _ = again.communicate(timeout=120)
    assert again.returncode == 0, text
    assert "make   cached" in text
    assert "left   continuing an interrupted left" in text
    assert steps_done(repository) == 60


@pytest.mark.slow
def test_ctrl_c_stops_the_container(repository: MiniRepository) -> None:
    runner = drive(repository, {"left_spec": json.dumps({"steps": 600, "step_s": 0.1})})
    wait_for(lambda: steps_done(repository) >= 3)
    runner.send_signal(signal.SIGINT)
    text, _ = runner.communicate(timeout=60)
    assert runner.returncode == 130, text
    assert "left   stopped after" in text
    assert running(repository) == []
    log = (repository.results / "latest" / "left" / "log.txt").read_text()
    assert "KeyboardInterrupt" in log  # it was told, and not only killed


@pytest.mark.slow
def test_a_container_that_hears_nothing_is_killed_after_its_grace(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipelines.local import processes

    monkeypatch.setattr(processes, "GRACE_S", {signal.SIGINT: 0.5, signal.SIGTERM: 0.5, signal.SIGKILL: 0.0})
    deaf = "import signal, time\nfor n in (2, 15): signal.signal(n, lambda n, f: print('heard', n, flush=True))\n"
    deaf += "print('ready', flush=True)\nwhile True: time.sleep(0.01)"
    started = containers(tmp_path).start(task(image, deaf), executor_input={}, log=tmp_path / "log.txt", environment={})
    wait_for(lambda: "ready" in started.last_words(1))
    processes.stop([started], at_once=lambda: False)
    assert started.last_words(3) == ["ready", "heard 2", "heard 15"]
    assert docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={tmp_path}") == ""


@pytest.mark.slow
def test_what_an_earlier_run_could_not_end_is_removed_by_the_next(image: str, tmp_path: Path) -> None:
    docker("run", "--detach", f"--label={LABEL}={tmp_path}", image, "sleep", "1000")
    containers(tmp_path)
    assert docker("ps", "--all", "--quiet", "--filter", f"label={LABEL}={tmp_path}") == ""


@pytest.mark.slow
def test_a_task_sees_the_data_read_only_writes_results_as_its_user_and_has_no_privileges(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data, results = tmp_path / "my, data", tmp_path / "results"
    data.mkdir()
    results.mkdir()
    (data / "image.jpg").write_text("pixels")
    os.chown(results, NOBODY, NOBODY)
    tmp_path.chmod(0o755)
    monkeypatch.setattr(os, "getuid", lambda: NOBODY)
    monkeypatch.setattr(os, "getgid", lambda: NOBODY)
    code = f"""
import pathlib
data, results = pathlib.Path({str(data)!r}), pathlib.Path({str(results)!r})
print((data / "image.jpg").read_text())
try:
    (data / "new").write_text("")
except OSError as error:
    print(error.strerror)
(results / "mine").write_text("")
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("CapEff", "NoNewPrivs"))])
print(pathlib.Path.cwd())
"""
    mounts = {data: False, results: True}
    words = run(results, task(image, code), mounts)
    assert words == ["pixels", "Read-only file system", "['0000000000000000', '1']", str(Path.cwd())]
    assert (results / "mine").stat().st_uid == (results / "mine").stat().st_gid == NOBODY


@pytest.mark.slow
def test_shared_memory_is_as_large_as_the_compiled_pipeline_says(image: str, tmp_path: Path) -> None:
    code = "import os; s = os.statvfs('/dev/shm'); print(s.f_frsize * s.f_blocks // 2**20)"
    assert run(tmp_path, task(image, code, shared_memory="256Mi")) == ["256"]
    assert run(tmp_path, task(image, code)) == ["64"]


@pytest.mark.slow
def test_a_server_on_this_machine_is_reached_and_secrets_are_no_part_of_the_command(
    image: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from http.server import HTTPServer, SimpleHTTPRequestHandler
    from threading import Thread

    server = HTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "very secret")
    address = f"http://127.0.0.1:{server.server_port}/nothing"
    code = """
import os, urllib.error, urllib.request
try:
    urllib.request.urlopen(os.environ["MLFLOW_TRACKING_URI"])
except urllib.error.HTTPError as error:
    print(error.code, os.environ["REID_ENCRYPTION_KEY"], os.environ.get("PATH_OF_MINE"))
"""
    monkeypatch.setenv("PATH_OF_MINE", "1")
    started = containers(tmp_path).start(
        task(image, code), executor_input={}, log=tmp_path / "log.txt", environment={"MLFLOW_TRACKING_URI": address}
    )
    command = Path(f"/proc/{started.process.pid}/cmdline").read_text()
    assert said(started) == ["404 very secret None"]
    assert "very secret" not in command
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_a_missing_image_is_reported(image: str, tmp_path: Path) -> None:
    with pytest.raises(PipelineError) as caught:
        containers(tmp_path).identity(task("reid-test/none:1", ""))
    assert str(caught.value) == "train: no image reid-test/none:1 here\n  want: make images, or docker pull"


@pytest.mark.parametrize(
    ("asked", "there", "given"),
    [(True, True, True), (True, False, False), (False, True, False)],
    ids=["both", "no GPU", "CPU stage"],
)
def test_gpus_are_given_to_a_task_that_asks_where_there_are_any(
    asked: bool, there: bool, given: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    command = asked_of_docker(task("x", "", accelerator=asked), tmp_path, monkeypatch, gpus=there)
    assert ("--gpus=all" in command) == given
    assert "--user=0:0" in command  # rootless: root inside is the user outside
    assert "--security-opt=label=disable" in command


def asked_of_docker(wanted: Task, folder: Path, monkeypatch: pytest.MonkeyPatch, *, gpus: bool) -> str:
    """The options of `docker run`, said by a program in its place: no GPU is needed to see them."""
    program = folder / "docker"
    program.write_text('#!/bin/sh\ntest "$1" = ps || echo "$@"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    tasks = Containers(Engine(rootless=True, selinux=True, gpus=gpus), folder, mounts=lambda _: {}, environment={})
    (command,) = said(tasks.start(wanted, executor_input={}, log=folder / "log.txt", environment={}))
    return command


def test_options_of_the_users_own_come_last(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("DOCKER_ARGS", "--add-host=mlflow:10.0.0.7 --label 'two words'")
    command = asked_of_docker(task("x", "pass"), tmp_path, monkeypatch, gpus=False)
    assert " --add-host=mlflow:10.0.0.7 --label two words " in command


def test_sizes_and_mounts_are_written_as_docker_reads_them() -> None:
    assert [docker_size(size) for size in ("2Gi", "512Mi", "64Ki", "1000")] == ["2g", "512m", "64k", "1000"]
    assert bind(Path("/a"), writable=True) == "type=bind,source=/a,target=/a"
    assert bind(Path('/a,"b'), writable=False) == 'type=bind,"source=/a,""b","target=/a,""b",readonly'


def drive(repository: MiniRepository, arguments: dict[str, str]) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "tests.pipelines.mini", str(repository.root), str(repository.results)]
    return subprocess.Popen(
        [*command, json.dumps(arguments), "1", "containers"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=ROOT,
        start_new_session=True,
    )


def steps_done(repository: MiniRepository) -> int:
    file = repository.results / "latest" / "left" / "data" / "step"
    return int(file.read_text() or 0) if file.exists() else 0
