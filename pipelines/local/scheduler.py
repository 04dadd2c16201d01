"""Runs a compiled pipeline on this machine: in topological order, up to `jobs` tasks at once, finished results taken
from the store.

What it reads is the YAML that a cluster would get, and a task sees what it would see there: the executor input JSON.
One thread: it starts tasks, watches them, reads their progress from their logs, and passes Ctrl-C and SIGTERM on.
Imports neither kfp nor docker.
"""

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from pipelines.display import Display, duration
from pipelines.ir import Constant, Pipeline, PipelineParameter, Source, Task, Value
from pipelines.local.cache import Prepared, Result, Store, key_of, key_parts
from pipelines.local.processes import Running, stop
from pipelines.local.result_record import FINISHED
from pipelines.local.run_record import RunRecord
from pipelines.local.task_files import LOG, Outputs, executor_input, read_outputs
from reid.errors import PipelineError
from reid.tracking.pipeline_run import PipelineRun

POLL_S = 0.05
LOG_LINES_SHOWN = 20
USER_ERROR = 2
CACHED, RAN, CONTINUED, FAILED, STOPPED, NOT_RUN = "cached", "ran", "continued", "failed", "stopped", "not run"


class Tasks(Protocol):
    """How tasks are run: as `Processes` or `Containers`."""

    def identity(self, task: Task) -> dict[str, str]:
        """What decides a result besides the inputs."""

    def start(
        self, task: Task, *, executor_input: Mapping[str, Any], log: Path, environment: Mapping[str, str]
    ) -> Running:
        """Starts the task; it ends at the latest with this process."""


@dataclass
class TaskReport:
    """How one task of a run ended."""

    stage: str
    state: str = NOT_RUN
    seconds: float = 0.0
    folder: Path | None = None
    outputs: Outputs = field(default_factory=lambda: Outputs({}, {}))


@dataclass
class RunReport:
    """How a run ended; exit status 0, 1, 2 where a task says so, 128 + n after signal n."""

    tasks: dict[str, TaskReport]
    seconds: float
    exit_status: int


@dataclass
class _Attempt:
    task: Task
    running: Running
    folder: Path
    parts: Mapping[str, str]
    continues: bool
    mlflow_run_id: str | None


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
        self._pipeline, self._arguments = pipeline, pipeline.arguments(arguments)
        self._store, self._tasks, self._display = store, tasks, display
        self._record, self._tracking, self._jobs = record, tracking, jobs
        self._file_names = file_names or {}
        self._waiting = list(pipeline.tasks)
        self._attempts: list[_Attempt] = []
        self._results: dict[str, Result] = {}
        self._reports = {task.name: TaskReport(task.stage) for task in pipeline.tasks}
        self._exit_status = 0
        self._signals: list[int] = []

    def run(self) -> RunReport:
        """Runs every task that can run; a failed one stops only what needs it."""
        started = time.monotonic()
        with self._listening():
            try:
                while (self._waiting or self._attempts) and not self._signals:
                    self._start_what_can()
                    self._look_at_running()
                    self._display.tick()
                    if self._attempts:
                        time.sleep(POLL_S)
                if self._signals:
                    self._stop()
            finally:  # after an error of ours nothing runs on unwatched
                stop([attempt.running for attempt in self._attempts], at_once=lambda: True)
        for task in self._waiting:
            self._display.say(task.stage, "not run")
            self._record.stage(task.stage, state=NOT_RUN)
        reports = {report.stage: report for report in self._reports.values()}
        return RunReport(reports, time.monotonic() - started, self._exit_status)

    def _start_what_can(self) -> None:
        """Takes cached results at once and starts tasks while there is room; drops those that can never run."""
        for task in list(self._waiting):
            if self._signals or len(self._attempts) >= self._jobs:
                return
            if task.needs <= self._results.keys():
                self._waiting.remove(task)
                self._begin(task)
        if not self._attempts and not any(task.needs <= self._results.keys() for task in self._waiting):
            self._give_up_waiting()

    def _give_up_waiting(self) -> None:
        for task in self._waiting:
            failed = sorted(self._reports[name].stage for name in task.needs - self._results.keys())
            self._display.say(task.stage, f"not run: needs {', '.join(failed)}")
            self._record.stage(task.stage, state=NOT_RUN)
        self._waiting = []

    def _begin(self, task: Task) -> None:
        """Uses the stored result of a task, or starts it."""
        parameters = {name: self._value(source) for name, source in task.parameters.items()}
        inputs = {name: (self._results[source.task], source.output) for name, source in task.artifacts.items()}
        parts = key_parts(
            task,
            parameters=parameters,
            digests={name: result.digests[output] for name, (result, output) in inputs.items()},
            code=self._tasks.identity(task),
        )
        folder = self._store.folder(task.stage, key_of(task, parts))
        cached = self._store.look_up(folder, task) if task.cacheable else None
        if cached:
            self._take(task, cached)
            return
        reason = self._store.why_not_cached(task.stage, parts) if task.cacheable else ""
        prepared = self._store.prepare(folder, task, afresh=not task.cacheable)
        self._tell_what_is_set_aside(task, folder, prepared)
        continues = prepared.goes_on
        self._store.point_latest(task.stage, folder)
        tracking = self._tracking
        mlflow_run_id = tracking.start_stage(task.stage, folder, goes_on=continues) if tracking else None
        running = self._tasks.start(
            task,
            executor_input=executor_input(
                task,
                parameters=parameters,
                artifacts={name: result.outputs.artifacts[output] for name, (result, output) in inputs.items()},
                folder=folder,
                file_names=self._file_names,
            ),
            log=folder / LOG,
            environment=self._mlflow_environment(mlflow_run_id),
        )
        self._attempts.append(_Attempt(task, running, folder, parts, continues, mlflow_run_id))
        self._record.stage(task.stage, state="running", folder=str(folder), mlflow_run_id=mlflow_run_id)
        start = f"continuing an interrupted {task.stage}" if continues else "started"
        self._display.started(task.stage, f"{start} ({reason})" if reason and not continues else start)

    def _tell_what_is_set_aside(self, task: Task, folder: Path, prepared: Prepared) -> None:
        if prepared.objection:
            found = f"{shown(folder / FINISHED)} is no record of a finished task: {prepared.objection}"
            self._display.say(task.stage, f"{found}; it is kept in {shown(prepared.aside or folder)}")
        elif prepared.aside:
            self._display.say(task.stage, f"its outputs as they were found are kept in {shown(prepared.aside)}")

    def _value(self, source: Source) -> Value:
        if isinstance(source, Constant):
            return source.value
        if isinstance(source, PipelineParameter):
            return self._arguments[source.name]
        return self._results[source.task].outputs.parameters[source.output]

    def _mlflow_environment(self, run_id: str | None) -> dict[str, str]:
        if self._tracking is None or run_id is None:
            return {}
        return {
            "MLFLOW_TRACKING_URI": self._tracking.tracking_uri,
            "MLFLOW_EXPERIMENT_ID": self._tracking.experiment_id,
            "MLFLOW_RUN_ID": run_id,
        }

    def _take(self, task: Task, cached: Result) -> None:
        self._results[task.name] = cached
        self._reports[task.name] = TaskReport(task.stage, CACHED, 0.0, cached.folder, cached.outputs)
        self._store.point_latest(task.stage, cached.folder)
        self._record.stage(task.stage, state=CACHED, seconds=0.0, folder=str(cached.folder))
        if self._tracking:
            self._tracking.copy_cached(task.stage, cached.outputs.metrics)
        self._display.say(task.stage, f"cached (took {duration(cached.seconds)} when it ran)")

    def _look_at_running(self) -> None:
        for attempt in list(self._attempts):
            status = attempt.running.exit_status()
            for line in attempt.running.progress():
                self._display.progress(attempt.task.stage, line)
            if status is not None:
                self._attempts.remove(attempt)
                attempt.running.close()
                self._end(attempt, status)

    def _end(self, attempt: _Attempt, status: int) -> None:
        """Books a task that ended by itself."""
        task, seconds = attempt.task, time.monotonic() - attempt.running.started
        trouble = f"exit status {status}"
        result = None
        if status == 0:
            try:
                outputs = read_outputs(task, attempt.folder, self._file_names)
                result = self._store.finish(attempt.folder, outputs=outputs, parts=attempt.parts, seconds=seconds)
            except PipelineError as error:
                trouble = str(error)
        if result is None:
            self._book(attempt, FAILED, "FAILED", seconds)
            self._exit_status = max(self._exit_status, USER_ERROR if status == USER_ERROR else 1)
            self._display.ended(task.stage, f"failed after {duration(seconds)}: {trouble}")
            for line in attempt.running.last_words(LOG_LINES_SHOWN):
                self._display.say("", f"| {line}")
            self._display.say("", f"whole log: {shown(attempt.running.log)}")
            return
        self._results[task.name] = result
        state = CONTINUED if attempt.continues else RAN
        self._book(attempt, state, "FINISHED", seconds, result.outputs)
        self._display.ended(task.stage, f"done in {duration(seconds)}")

    def _book(
        self, attempt: _Attempt, state: str, mlflow_status: str, seconds: float, outputs: Outputs | None = None
    ) -> None:
        stage = attempt.task.stage
        self._reports[attempt.task.name] = TaskReport(stage, state, seconds, attempt.folder, outputs or Outputs({}, {}))
        self._record.stage(stage, state=state, seconds=round(seconds, 3))
        if self._tracking:
            self._tracking.finish_stage(attempt.folder, mlflow_status)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        """Notes SIGINT, SIGTERM and SIGHUP instead of dying of them."""
        numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {number: signal.signal(number, lambda number, _: self._signals.append(number)) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self) -> None:
        """Ends the running tasks, gently first; a second Ctrl-C ends them at once."""
        self._exit_status = 128 + self._signals[0]
        heard = len(self._signals)
        for attempt in self._attempts:
            self._display.say(attempt.task.stage, "stopping (Ctrl-C again: at once)")
        stop([attempt.running for attempt in self._attempts], at_once=lambda: len(self._signals) > heard)
        for attempt in self._attempts:
            seconds = time.monotonic() - attempt.running.started
            self._book(attempt, STOPPED, "KILLED", seconds)
            self._display.ended(attempt.task.stage, f"stopped after {duration(seconds)}; the next run continues it")
        self._attempts = []


def shown(path: Path) -> str:
    """The path as a person would type it here: relative where it lies below."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative
