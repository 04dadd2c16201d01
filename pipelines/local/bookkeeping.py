"""Keeps the state of a run's tasks: finished results, the cache, the run's record, MLflow's runs, and what the user
is shown. It starts and stops nothing: the scheduler does, and reports every step here.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipelines.display import Display
from pipelines.ir import Constant, Pipeline, PipelineParameter, Source, Task, Value
from pipelines.local.cache import Prepared, Result, Store, key_of, key_parts
from pipelines.local.processes import Running
from pipelines.local.result_record import FINISHED
from pipelines.local.run_record import RunRecord
from pipelines.local.run_report import CACHED, CONTINUED, FAILED, NOT_RUN, RAN, STOPPED, TaskReport, shown
from pipelines.local.task_files import LOG, Artifact, Outputs, executor_input, read_outputs
from reid.console.progress import duration
from reid.errors import PipelineError
from reid.tracking.pipeline_run import PipelineRun

LOG_LINES_SHOWN = 20


@dataclass(frozen=True)
class Plan:
    """A task whose inputs are known, and the folder of its result."""

    task: Task
    parameters: Mapping[str, Value]
    artifacts: Mapping[str, Artifact]
    parts: Mapping[str, str]
    """Everything that the result depends on: the parts of the cache key."""
    folder: Path

    @property
    def log(self) -> Path:
        """The file for the task's output."""
        return self.folder / LOG


@dataclass(frozen=True)
class Attempt:
    """A task that is being run."""

    plan: Plan
    resumes: bool
    """Whether it resumes an interrupted attempt in the same folder."""
    reason: str
    """Why no earlier result of the stage could be used; empty if there was none."""
    mlflow_run_id: str | None


class Bookkeeping:
    """The state of one run's tasks."""

    def __init__(
        self,
        pipeline: Pipeline,
        arguments: Mapping[str, Value],
        *,
        store: Store,
        display: Display,
        record: RunRecord,
        tracking: PipelineRun | None,
        file_names: Mapping[str, str],
    ) -> None:
        self._arguments, self._file_names = pipeline.arguments(arguments), file_names
        self._store, self._display, self._record, self._tracking = store, display, record, tracking
        self._results: dict[str, Result] = {}
        self._reports = {task.name: TaskReport(task.stage) for task in pipeline.tasks}

    def is_ready(self, task: Task) -> bool:
        """Whether everything that the task needs is finished."""
        return task.needs <= self._results.keys()

    def reports(self) -> dict[str, TaskReport]:
        """Stage -> how its task ended."""
        return {report.stage: report for report in self._reports.values()}

    def plan(self, task: Task, *, code: Mapping[str, str]) -> Plan:
        """The task with its inputs, all of which have to be finished; `code` identifies what would run it."""
        parameters = {name: self._value(source) for name, source in task.parameters.items()}
        inputs = {name: (self._results[source.task], source.output) for name, source in task.artifacts.items()}
        digests = {name: result.digests[output] for name, (result, output) in inputs.items()}
        parts = key_parts(task, parameters=parameters, digests=digests, code=code)
        artifacts = {name: result.outputs.artifacts[output] for name, (result, output) in inputs.items()}
        return Plan(task, parameters, artifacts, parts, self._store.folder(task.stage, key_of(task, parts)))

    def _value(self, source: Source) -> Value:
        if isinstance(source, Constant):
            return source.value
        if isinstance(source, PipelineParameter):
            return self._arguments[source.name]
        return self._results[source.task].outputs.parameters[source.output]

    def use_cached(self, plan: Plan) -> bool:
        """Takes the stored result of the task if there is one; returns whether there was."""
        task = plan.task
        cached = self._store.look_up(plan.folder, task) if task.cacheable else None
        if cached is None:
            return False
        self._results[task.name] = cached
        self._reports[task.name] = TaskReport(task.stage, CACHED, 0.0, cached.folder, cached.outputs)
        self._store.point_latest(task.stage, cached.folder)
        self._record.stage(task.stage, state=CACHED, seconds=0.0, folder=str(cached.folder))
        if self._tracking:
            self._tracking.copy_cached(task.stage, cached.outputs.metrics, cached.folder)
        self._display.say(task.stage, f"cached (took {duration(cached.seconds)} when it ran)")
        return True

    def prepare(self, plan: Plan) -> Attempt:
        """Makes the folder ready and opens the MLflow run of an attempt."""
        task = plan.task
        reason = self._store.why_not_cached(task.stage, plan.parts) if task.cacheable else ""
        prepared = self._store.prepare(plan.folder, task, afresh=not task.cacheable)
        self._show_what_is_set_aside(plan, prepared)
        if task.cacheable and (other := self._store.interrupted_elsewhere(task.stage, plan.folder)):
            stays = f"an interrupted attempt with other inputs stays in {shown(other)}"
            self._display.say(task.stage, f"{stays}; a run with those inputs continues it")
        self._store.point_latest(task.stage, plan.folder)
        run_id = None
        if self._tracking:
            run_id = self._tracking.start_stage(task.stage, plan.folder, resumes=prepared.resumes)
        return Attempt(plan, prepared.resumes, reason, run_id)

    def _show_what_is_set_aside(self, plan: Plan, prepared: Prepared) -> None:
        stage = plan.task.stage
        if prepared.objection:
            found = f"{shown(plan.folder / FINISHED)} is no record of a finished task: {prepared.objection}"
            self._display.say(stage, f"{found}; it is kept in {shown(prepared.aside or plan.folder)}")
        elif prepared.aside:
            size = sum(file.stat().st_size for file in prepared.aside.rglob("*") if file.is_file())
            kept = f"its outputs as they were found are kept in {shown(prepared.aside)}"
            self._display.say(stage, f"{kept} ({size / 1e6:,.1f} MB); delete that folder if you do not need them")

    def executor_input(self, plan: Plan) -> dict[str, Any]:
        """The JSON that the task is started with."""
        own = {name: self._value(source) for name, source in plan.task.resource_parameters.items()}
        return executor_input(
            plan.task,
            parameters={**plan.parameters, **own},
            artifacts=plan.artifacts,
            folder=plan.folder,
            file_names=self._file_names,
        )

    def environment(self, attempt: Attempt) -> dict[str, str]:
        """The variables by which the task finds its MLflow run."""
        if self._tracking is None or attempt.mlflow_run_id is None:
            return {}
        return {
            "MLFLOW_TRACKING_URI": self._tracking.tracking_uri,
            "MLFLOW_EXPERIMENT_ID": self._tracking.experiment_id,
            "MLFLOW_RUN_ID": attempt.mlflow_run_id,
        }

    def started(self, attempt: Attempt) -> None:
        """Notes and shows that the task's process has started."""
        stage, folder = attempt.plan.task.stage, str(attempt.plan.folder)
        self._record.stage(stage, state="running", folder=folder, mlflow_run_id=attempt.mlflow_run_id)
        if attempt.resumes:
            text = f"continuing an interrupted {stage}"
        else:
            text = f"started ({attempt.reason})" if attempt.reason else "started"
        self._display.started(stage, text)

    def ended(self, attempt: Attempt, running: Running, status: int) -> bool:
        """Notes how the task's process ended by itself; returns whether it ended well and wrote what it declares."""
        task, seconds = attempt.plan.task, time.monotonic() - running.started
        error = f"exit status {status}"
        if status == 0:
            try:
                outputs = read_outputs(task, attempt.plan.folder, self._file_names)
                result = self._store.finish(
                    attempt.plan.folder, outputs=outputs, parts=attempt.plan.parts, seconds=seconds
                )
            except PipelineError as objection:
                error = str(objection)
            else:
                self._results[task.name] = result
                self._note_end(attempt, CONTINUED if attempt.resumes else RAN, "FINISHED", seconds, result.outputs)
                self._display.ended(task.stage, f"done in {duration(seconds)}")
                return True
        self._note_end(attempt, FAILED, "FAILED", seconds)
        self._display.ended(task.stage, f"failed after {duration(seconds)}: {error}")
        for line in running.last_words(LOG_LINES_SHOWN):
            self._display.say("", f"| {line}")
        self._display.say("", f"whole log: {shown(running.log)}")
        return False

    def stopping(self, attempt: Attempt) -> None:
        """Shows that the task's process has been asked to end."""
        self._display.say(attempt.plan.task.stage, "stopping (Ctrl-C again: at once)")

    def stopped(self, attempt: Attempt, running: Running) -> None:
        """Notes that the task's process ended because the run was interrupted."""
        seconds = time.monotonic() - running.started
        self._note_end(attempt, STOPPED, "KILLED", seconds)
        text = f"stopped after {duration(seconds)}; the next run continues it"
        self._display.ended(attempt.plan.task.stage, text)

    def _note_end(
        self, attempt: Attempt, state: str, mlflow_status: str, seconds: float, outputs: Outputs | None = None
    ) -> None:
        task, folder = attempt.plan.task, attempt.plan.folder
        self._reports[task.name] = TaskReport(task.stage, state, seconds, folder, outputs or Outputs({}, {}))
        self._record.stage(task.stage, state=state, seconds=round(seconds, 3))
        if self._tracking:
            self._tracking.finish_stage(folder, mlflow_status)

    def not_run(self, tasks: Sequence[Task], *, say_why: bool) -> None:
        """Notes that these tasks are not run: the run was interrupted, or a task that they need failed."""
        for task in tasks:
            missing = sorted(self._reports[name].stage for name in task.needs - self._results.keys())
            self._display.say(task.stage, f"not run: needs {', '.join(missing)}" if say_why else "not run")
            self._record.stage(task.stage, state=NOT_RUN)
