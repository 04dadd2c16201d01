"""The state of each stage of a run on a cluster, out of what KFP's API and, if it is there, Argo's workflow say."""

from dataclasses import dataclass
from typing import Any

from pipelines.cluster.workflow import DRIVER, Workflow, shortened
from reid.console.progress import duration

OVER = {"SUCCEEDED", "FAILED", "CANCELED", "SKIPPED"}
"""States in which a run ends."""
WORDS = {
    "PENDING": "waiting",
    "RUNNING": "started",
    "SUCCEEDED": "done",
    "SKIPPED": "skipped",
    "FAILED": "failed",
    "CANCELING": "being cancelled",
    "CANCELED": "cancelled",
    "PAUSED": "paused",
}


@dataclass(frozen=True)
class StageState:
    """What is shown of a stage."""

    kind: str
    """Changes if the stage has a new line to show."""
    text: str
    runs: bool = False
    """Whether the stage is at work, rather than waiting or over."""


def outcome(run: Any) -> str:
    """How the run is or ended; CANCELED also if KFP calls it failed because somebody terminated it."""
    state = str(run.state or "PENDING")
    if state != "FAILED":
        return state
    for entry in reversed(run.state_history or ()):
        if entry.state in {"PENDING", "RUNNING"}:  # a run that is tried again gets these anew
            break
        if entry.state == "CANCELING":
            return "CANCELED"
    return state


def _details(run: Any) -> list[Any]:
    """The run's tasks in the order in which they started; KFP names every try of a task alike."""
    details = (run.run_details.task_details if run.run_details else None) or ()
    return sorted((task for task in details if task.display_name), key=lambda task: str(task.start_time or ""))


def tasks_of(run: Any) -> dict[str, Any]:
    """The run's tasks by name; of several tries, the latest."""
    return {task.display_name: task for task in _details(run)}


def stages_of(run: Any) -> list[str]:
    """The stages that the run has come to, as KFP names them, in the order in which their drivers started."""
    names = dict.fromkeys(task.display_name for task in _details(run))
    return [name.removesuffix(DRIVER) for name in names if name.endswith(DRIVER) and name != f"root{DRIVER}"]


def waits_for_pods(run: Any) -> int:
    """How many pods of the run do not run yet."""
    return sum(task.state == "PENDING" for task in _details(run))


def states_of(run: Any, workflow: Workflow | None) -> dict[str, StageState]:
    """Stage -> its state, for those that have one: nothing is said of a driver that is at work."""
    tasks, cancelled = tasks_of(run), outcome(run) in {"CANCELING", "CANCELED"}
    found = {}
    for stage in stages_of(run):
        if stage in tasks and tasks[stage].state and tasks[stage].state != "RUNTIME_STATE_UNSPECIFIED":
            found[stage] = _of_its_task(stage, tasks[stage], workflow, cancelled=cancelled)
        elif tasks[f"{stage}{DRIVER}"].state == "FAILED" and not cancelled:
            found[stage] = StageState("DRIVER FAILED", "not started, for KFP's driver of it failed")
        elif stage in tasks:
            found[stage] = StageState("NOT RUN", "not run")
        else:
            driver = workflow.pods.get((stage, True)) if workflow else None
            if driver and driver.waits and driver.message:
                found[stage] = StageState(_kind(driver.waits), f"its driver is {driver.waits}")
    return found


def _of_its_task(stage: str, task: Any, workflow: Workflow | None, *, cancelled: bool) -> StageState:
    """The state of a stage whose driver is done. Its task runs from then on, whatever its pod does."""
    state = "CANCELED" if cancelled and task.state == "FAILED" else str(task.state)
    text = WORDS.get(state, state.lower())
    if state == "RUNNING":
        pod = workflow.pods.get((stage, False)) if workflow else None
        if pod and pod.waits:
            return StageState(_kind(pod.waits), pod.waits)
        if pod and pod.failed:
            said = shortened(pod.message) or pod.phase
            return StageState(f"{pod.node} failed", f"this try failed ({said}); waiting for the next")
        return StageState(f"RUNNING {pod.node if pod else ''}", text, runs=True)  # another try is another line
    if state == "SUCCEEDED" and workflow and stage in workflow.cached:
        return StageState("CACHED", "cached")
    took = _seconds(task) if state in {"SUCCEEDED", "FAILED"} else None
    return StageState(state, f"{text} after {duration(took)}" if took is not None else text)


def _kind(waits: str) -> str:
    return waits.partition(":")[0]


def _seconds(task: Any) -> float | None:
    """How long the task took; the time of what has not ended is in the year 1."""
    if not task.start_time or not task.end_time or task.end_time < task.start_time:
        return None
    return float((task.end_time - task.start_time).total_seconds())
