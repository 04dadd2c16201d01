"""Runs a compiled pipeline on this machine: in topological order, up to `jobs` tasks at once, finished results taken
from the store.

It reads the YAML that a cluster would get, and a task sees what it would see there: the executor input JSON. One thread
starts the tasks, watches them, reads their progress from their logs, and passes Ctrl-C and SIGTERM on. What is known of
the tasks is kept by `Bookkeeping`. Imports neither kfp nor docker.
"""

import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from pipelines.display import Display
from pipelines.ir import Pipeline, Task, Value
from pipelines.local.bookkeeping import Attempt, Bookkeeping
from pipelines.local.cache import Store
from pipelines.local.processes import Running, stop
from pipelines.local.run_record import RunRecord
from pipelines.local.run_report import RunReport
from reid.tracking.pipeline_run import PipelineRun

POLL_S = 0.05
USER_ERROR = 2
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Tasks(Protocol):
    """How tasks are run: as `Processes` or `Containers`."""

    def identity(self, task: Task) -> dict[str, str]:
        """What decides a result apart from its inputs."""

    def start(
        self, task: Task, *, executor_input: Mapping[str, Any], log: Path, environment: Mapping[str, str]
    ) -> Running:
        """Starts the task; it ends at the latest with this process."""


class LocalRun:
    """One run of one pipeline."""

    def __init__(
        self,
        pipeline: Pipeline,
        arguments: Mapping[str, Value],
        *,
        store: Store,
        tasks: Tasks,
        display: Display,
        record: RunRecord,
        tracking: PipelineRun | None,
        jobs: int = 1,
        file_names: Mapping[str, str] | None = None,
    ) -> None:
        """`file_names` gives output artifacts a name of their own, by port: {"onnx": "model.onnx"}."""
        self._books = Bookkeeping(
            pipeline,
            arguments,
            store=store,
            display=display,
            record=record,
            tracking=tracking,
            file_names=file_names or {},
        )
        self._tasks, self._display, self._jobs = tasks, display, jobs
        self._waiting = list(pipeline.tasks)
        self._running: list[tuple[Attempt, Running]] = []
        self._exit_status = 0
        self._signals: list[int] = []

    def run(self) -> RunReport:
        """Runs every task that can run; a failed one stops only those that need it."""
        started = time.monotonic()
        with self._note_signals(), self._display:
            try:
                while (self._waiting or self._running) and not self._signals:
                    self._start_ready_tasks()
                    self._watch_running_tasks()
                    self._display.tick()
                    if self._running:
                        time.sleep(POLL_S)
                if self._signals:
                    self._stop_running_tasks()
            finally:  # after an error of this program no task may keep running unwatched
                stop([running for _, running in self._running], at_once=lambda: True)
            self._books.not_run(self._waiting, say_why=False)
        return RunReport(self._books.reports(), time.monotonic() - started, self._exit_status)

    def _start_ready_tasks(self) -> None:
        """Takes cached results at once and starts tasks while there is room; drops those that can never run."""
        for task in list(self._waiting):
            if self._signals or len(self._running) >= self._jobs:
                return
            if self._books.is_ready(task):
                self._waiting.remove(task)
                self._use_cached_or_start(task)
        if not self._running and not any(self._books.is_ready(task) for task in self._waiting):
            self._books.not_run(self._waiting, say_why=True)
            self._waiting = []

    def _use_cached_or_start(self, task: Task) -> None:
        plan = self._books.plan(task, code=self._tasks.identity(task))
        if self._books.use_cached(plan):
            return
        attempt = self._books.prepare(plan)
        running = self._tasks.start(
            task,
            executor_input=self._books.executor_input(plan),
            log=plan.log,
            environment=self._books.environment(attempt),
        )
        self._running.append((attempt, running))
        self._books.started(attempt)

    def _watch_running_tasks(self) -> None:
        for attempt, running in list(self._running):
            status = running.exit_status()
            for line in running.progress():
                self._display.progress(attempt.plan.task.stage, line)
            if status is not None:
                self._running.remove((attempt, running))
                running.close()
                if not self._books.ended(attempt, running, status):
                    self._exit_status = max(self._exit_status, USER_ERROR if status == USER_ERROR else 1)

    @contextmanager
    def _note_signals(self) -> Iterator[None]:
        """Notes SIGINT, SIGTERM and SIGHUP while the block runs, instead of ending this process by them."""
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop_running_tasks(self) -> None:
        """Ends the running tasks, gently first; a second Ctrl-C ends them at once."""
        self._exit_status = 128 + self._signals[0]
        received = len(self._signals)
        for attempt, _ in self._running:
            self._books.stopping(attempt)
        stop([running for _, running in self._running], at_once=lambda: len(self._signals) > received)
        for attempt, running in self._running:
            self._books.stopped(attempt, running)
        self._running = []
