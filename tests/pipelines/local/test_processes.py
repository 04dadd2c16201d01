"""Tasks as processes: what they see, and how they end."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from pipelines.ir import Task
from pipelines.local import processes
from pipelines.local.processes import Processes, Running, stop


def python(code: str) -> Task:
    """A task that runs this code; {{$}} is its argument."""
    return Task(
        name="train",
        image="x:1",
        command=("python3", "-c", code, "{{$}}"),
        environment={"FROM_IR": "yes"},
        cacheable=True,
        gpus=0,
        parameters={},
        parameter_types={},
        artifacts={},
        output_parameters={},
        output_artifacts={},
        needs=frozenset(),
    )


def start(code: str, folder: Path, **environment: str) -> Running:
    return Processes(folder).start(
        python(code), executor_input={"a": 'it\'s "b"'}, log=folder / "log.txt", environment=environment
    )


def ended(running: Running) -> int:
    status = running.process.wait(timeout=20)
    running.close()
    return status


def test_a_task_gets_the_executor_input_and_the_environment_of_the_contract(tmp_path: Path) -> None:
    running = start(
        "import json, os, sys; print(json.loads(sys.argv[1])['a']); print(sys.executable);"
        "print(*(os.environ[n] for n in ('FROM_IR','MLFLOW_RUN_ID','PYTHONUNBUFFERED','MLFLOW_DISABLE_TELEMETRY')));"
        "print(os.environ['PYTHONPATH'].split(os.pathsep)[0]); print(os.environ['NUMBA_CACHE_DIR']);"
        "print(os.environ['TORCHINDUCTOR_CACHE_DIR'])",
        tmp_path,
        MLFLOW_RUN_ID="abc",
        NUMBA_CACHE_DIR=str(tmp_path / "numba"),
        TORCHINDUCTOR_CACHE_DIR=str(tmp_path / "compiled"),
    )
    assert ended(running) == 0
    assert (tmp_path / "log.txt").read_text().splitlines()[1:] == [
        'it\'s "b"',
        sys.executable,
        "yes abc 1 true",
        str(tmp_path),
        str(tmp_path / "numba"),
        str(tmp_path / "compiled"),
    ]


def test_progress_lines_are_read_as_they_come_and_left_out_of_the_last_words(tmp_path: Path) -> None:
    running = start(
        "print('one'); print('progress: train: 1/2'); print('two'); print('progress: train: 2/2')", tmp_path
    )
    assert ended(running) == 0
    assert running.progress() == ["train: 1/2", "train: 2/2"]
    assert running.progress() == []
    assert running.last_words(20) == ["one", "two"]
    assert running.last_words(1) == ["two"]


def test_an_attempt_reads_its_own_part_of_the_log_only(tmp_path: Path) -> None:
    ended(start("print('first'); print('progress: first')", tmp_path))
    second = start("print('second')", tmp_path)
    ended(second)
    assert second.progress() == []
    assert second.last_words(20) == ["second"]
    assert "first" in (tmp_path / "log.txt").read_text()


@pytest.mark.parametrize(("code", "status"), [("raise SystemExit(7)", 7), ("import os; os.kill(os.getpid(), 9)", 137)])
def test_the_exit_status_is_the_tasks(code: str, status: int, tmp_path: Path) -> None:
    assert ended(start(code, tmp_path)) == status


def test_a_command_that_is_not_there_says_so(tmp_path: Path) -> None:
    task = python("")
    missing = Task(**{**task.__dict__, "command": ("/no/such/program",)})
    running = Processes(tmp_path).start(missing, executor_input={}, log=tmp_path / "log.txt", environment={})
    assert ended(running) == 127
    assert running.last_words(1) == ["cannot start /no/such/program: No such file or directory"]


def test_a_task_that_hears_nothing_is_killed_after_its_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", {signal.SIGINT: 0.2, signal.SIGTERM: 0.2, signal.SIGKILL: 0.0})
    running = start(
        "import signal, time\nfor n in (2, 15): signal.signal(n, lambda n, f: print('heard', n))\nprint('ready')\n"
        "while True: time.sleep(0.01)",
        tmp_path,
    )
    while "ready" not in running.last_words(1):
        time.sleep(0.02)
    stop([running], at_once=lambda: False)
    assert running.last_words(3) == ["ready", "heard 2", "heard 15"]
    assert running.exit_status() == -9


def test_what_a_task_leaves_behind_is_ended_with_it(tmp_path: Path) -> None:
    running = start("import subprocess; print(subprocess.Popen(['sleep', '1000']).pid)", tmp_path)
    assert ended(running) == 0
    child = int(running.last_words(1)[0])
    end = time.monotonic() + 10
    while Path(f"/proc/{child}").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split()[2]:
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_folder_of_the_same_name_where_the_user_stands_hides_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "repo" / "components").mkdir(parents=True)
    (tmp_path / "repo" / "components" / "__init__.py").write_text("OURS = True")
    (tmp_path / "elsewhere" / "components").mkdir(parents=True)
    (tmp_path / "elsewhere" / "components" / "__init__.py").write_text("OURS = False")
    monkeypatch.chdir(tmp_path / "elsewhere")
    running = Processes(tmp_path / "repo").start(
        python("import components; print(components.OURS)"),
        executor_input={},
        log=tmp_path / "log.txt",
        environment={},
    )
    assert ended(running) == 0
    assert running.last_words(1) == ["True"]
    assert os.environ.get("PYTHONSAFEPATH") is None
