"""Follows a run on a cluster: a line for each change of a stage's state, until the run is over."""

import time
from collections.abc import Callable, Mapping
from typing import Any, TextIO

from pipelines.cluster.api import Cluster
from pipelines.cluster.refusals import Unreachable
from pipelines.cluster.stage_states import OVER, StageState, stages_of, states_of, tasks_of, waits_for_pods
from pipelines.cluster.workflow import Workflow, workflow_of
from pipelines.display import Display
from reid.errors import PipelineError

POLL_S = 5.0
LOST_AFTER_S = 600.0
"""How long the API may be unreachable while a run is followed."""
LOOK_AGAIN_S = 15.0
"""How often a pod that waits is asked what for. A workflow may be a megabyte, so that it is not read at each poll."""
WIDTH = len("gen_trt_engine")
"""Of the column of stage names."""


def follow(
    cluster: Cluster,
    run_id: str,
    *,
    stream: TextIO,
    poll_s: float | None = None,
    once: bool = False,
    clock: Callable[[], float] = time.monotonic,
) -> tuple[Any, Workflow | None]:
    """Shows each stage's state as it changes until the run is over, and returns the run and its workflow.

    If `once`, it shows the states as they are and returns. Raises PipelineError if the API is unreachable for too long.
    """
    reached_at, unreachable = clock(), False
    with Display(stream, width=WIDTH) as display:
        lines, pods = _StateLines(display), _Pods(cluster, run_id, clock)
        while True:
            try:
                run = cluster.run(run_id)
            except Unreachable as error:
                if once or clock() - reached_at > LOST_AFTER_S:
                    raise PipelineError(f"{error}\n  the run may continue: {run_id}") from None
                if not unreachable:
                    display.say("", f"{str(error).splitlines()[0]}; asking again")
                unreachable = True
            else:
                reached_at, unreachable = clock(), False
                workflow = pods.at(run)
                lines.show(states_of(run, workflow))
                if once or run.state in OVER:
                    return run, workflow
            display.tick()
            time.sleep(POLL_S if poll_s is None else poll_s)


class _Pods:
    """Reads the workflow of a run when there may be something new in it that the API does not say."""

    def __init__(self, cluster: Cluster, run_id: str, clock: Callable[[], float]) -> None:
        self._cluster, self._run_id, self._clock = cluster, run_id, clock
        self._seen: object = None
        self._read_at = 0.0
        self._workflow: Workflow | None = None

    def at(self, run: Any) -> Workflow | None:
        """The workflow, as new as it has to be for this state of the run."""
        tasks, waiting = tasks_of(run), waits_for_pods(run)
        states = tuple(getattr(tasks.get(stage), "state", None) for stage in stages_of(run))
        seen = (run.state, states, waiting)
        if seen != self._seen or (waiting and self._clock() - self._read_at >= LOOK_AGAIN_S):
            self._workflow = workflow_of(self._cluster, self._run_id) or self._workflow
            self._seen, self._read_at = seen, self._clock()
        return self._workflow


class _StateLines:
    """Shows a line for each change of a stage's state."""

    def __init__(self, display: Display) -> None:
        self._display = display
        self._kinds: dict[str, str] = {}

    def show(self, states: Mapping[str, StageState]) -> None:
        """Shows those of the states (stage -> state) that are new."""
        for stage, state in states.items():
            if state.kind != self._kinds.get(stage):
                self._kinds[stage] = state.kind
                report = self._display.started if state.runs else self._display.ended
                report(stage.replace("-", "_"), state.text)
