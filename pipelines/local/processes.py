"""Tasks of the compiled pipeline as processes of this machine.

Each is a process group, so that a signal reaches everything that it started; its output goes into its log file, from
which the runner reads how far it is. `Containers` has the same two methods: `identity` says what decides a result
in addition to the inputs, `start` starts a task.
"""

import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from pipelines.ir import Task
from pipelines.local import code_hash, engine_builders
from reid.files.secrets import encryption_key

GUARD = Path(__file__).with_name("guard.py")
PROGRESS = "progress: "
LAST_WORDS_BYTES = 64 * 1024
GRACE_S = {signal.SIGINT: 20.0, signal.SIGTERM: 5.0, signal.SIGKILL: 0.0}
"""Signals that a task gets, one after the other, when the run is interrupted -> how long each is given."""
POLL_S = 0.05


@dataclass
class Running:
    """A started task: its process, and its log from where this attempt began."""

    process: "subprocess.Popen[bytes]"
    log: Path
    log_start: int
    started: float = field(default_factory=time.monotonic)
    _read_to: int = field(init=False)
    _unfinished_line: bytes = field(default=b"", init=False)

    def __post_init__(self) -> None:
        self._read_to = self.log_start

    def exit_status(self) -> int | None:
        """The exit status; None while it runs."""
        return self.process.poll()

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal to the task and all it started. SIGKILL is left to the guard, which also ends a container."""
        if self.process.poll() is not None:
            return
        if number is signal.SIGKILL and self.process.stdin:
            self.process.stdin.close()
        else:
            os.killpg(self.process.pid, number)

    def close(self) -> None:
        """Kills what an ended task may have left behind in its process group."""
        if self.process.stdin:
            self.process.stdin.close()
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):  # macOS raises the second for a group of zombies
            return

    def progress(self) -> list[str]:
        """The progress lines written since the last call, without their mark."""
        with self.log.open("rb") as stream:
            stream.seek(self._read_to)
            fresh = stream.read()
        self._read_to += len(fresh)
        *lines, self._unfinished_line = (self._unfinished_line + fresh).split(b"\n")
        texts = [line.decode("utf-8", "replace") for line in lines]
        return [text.removeprefix(PROGRESS) for text in texts if text.startswith(PROGRESS)]

    def last_words(self, lines: int) -> list[str]:
        """The last lines that this attempt logged, without progress."""
        with self.log.open("rb") as stream:
            stream.seek(max(self.log_start, stream.seek(0, os.SEEK_END) - LAST_WORDS_BYTES))
            texts = stream.read().decode("utf-8", "replace").splitlines()
        return [text for text in texts if not text.startswith(PROGRESS)][-lines:]


def stop(running: Sequence[Running], *, at_once: Callable[[], bool]) -> None:
    """Ends these tasks and waits for them: by SIGINT, SIGTERM and SIGKILL, without the waits between if `at_once`."""
    for number, grace_s in GRACE_S.items():
        for task in running:
            task.signal(number)
        give_up_at = time.monotonic() + grace_s
        while any(task.exit_status() is None for task in running) and time.monotonic() < give_up_at and not at_once():
            time.sleep(POLL_S)
    for task in running:
        task.process.wait()
        task.close()


def start_guarded(
    stage: str,
    command: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    keep_open: Sequence[int],
    container: str | None = None,
) -> Running:
    """Starts the command with its output in the log; it, and the container of this name, end with this process."""
    log.parent.mkdir(parents=True, exist_ok=True)
    named = ["--container", container] if container else []
    with log.open("ab") as stream:
        stream.write(f"--- {stage}, {datetime.now():%Y-%m-%d %H:%M:%S}\n".encode())
        log_start = stream.tell()
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", str(GUARD), *named, *command],
            stdin=subprocess.PIPE,
            stdout=stream,
            stderr=subprocess.STDOUT,
            env=environment,
            start_new_session=True,
            pass_fds=tuple(keep_open),
        )
    return Running(process, log, log_start)


class Processes:
    """Runs tasks with this Python, from the repository at `root`."""

    def __init__(self, root: Path, *, keep_open: Sequence[int] = ()) -> None:
        """The file descriptors `keep_open` stay open until the last task has ended, even if the runner was killed."""
        self.root = root
        self.keep_open = tuple(keep_open)

    def identity(self, task: Task) -> dict[str, str]:
        """What decides a result apart from its inputs: the stage's code, the packages, and for an engine the GPUs."""
        stage = code_hash.stage_of(task.command)
        python = ".".join(platform.python_version_tuple()[:2])
        lock = code_hash.file_hash(self.root / "requirements.lock")
        parts = {"code": code_hash.stage_code(self.root, stage) if stage else "", "packages": f"{python} {lock}"}
        if stage == engine_builders.STAGE:
            parts |= {"tensorrt": engine_builders.installed_tensorrt(), "gpus": engine_builders.gpus_here()}
        # only whether there is a key: a weak key could be guessed from its hash
        return parts | ({"encryption": "on"} if encryption_key() else {})

    def start(
        self, task: Task, *, executor_input: Mapping[str, Any], log: Path, environment: Mapping[str, str]
    ) -> Running:
        """Starts the task; it ends at the latest with this process."""
        return start_guarded(
            task.stage,
            self._command(task, executor_input),
            log=log,
            environment=self._environment(task, environment),
            keep_open=self.keep_open,
        )

    def _command(self, task: Task, executor_input: Mapping[str, Any]) -> list[str]:
        words = [word.replace("{{$}}", json.dumps(executor_input)) for word in task.command]
        if words[0] in {"python", "python3"}:
            words[0] = sys.executable
        return words

    def _environment(self, task: Task, extra: Mapping[str, str]) -> dict[str, str]:
        path = [str(self.root), *filter(None, [os.environ.get("PYTHONPATH")])]
        return {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "PYTHONSAFEPATH": "1",  # a folder `components` in the working folder must not hide this project's
            "PYTHONUNBUFFERED": "1",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            # OpenMP's threads spin for long while they wait for each other; on a shared machine that costs up to two
            # thirds of a training's speed. 2000 turns cost nothing on an idle one (427 and 404 images/s, one run each).
            "GOMP_SPINCOUNT": os.environ.get("GOMP_SPINCOUNT", "2000"),
            "NUMBA_CACHE_DIR": os.environ.get("NUMBA_CACHE_DIR", str(self.root / ".cache" / "numba")),
            "TORCHINDUCTOR_CACHE_DIR": os.environ.get(
                "TORCHINDUCTOR_CACHE_DIR", str(self.root / ".cache" / "compiled")
            ),
            **task.environment,
            **extra,
        }
