"""A run on a cluster: it is submitted, its tasks' states are shown as they change, and its figures at the end."""

import os
import sys
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, TextIO

from rich.console import Console

from pipelines import ir
from pipelines.cluster.api import Cluster, Endpoint, Unreachable
from pipelines.cluster.preparation import compile_for_cluster
from pipelines.display import Display
from pipelines.summary import retrieval_table
from reid.console.progress import duration
from reid.console.tables import rich_console
from reid.errors import PipelineError, TrackingError
from reid.files.hashes import file_sha256
from reid.spec import Experiment
from reid.tracking.pipeline_run import figures_of_kfp_run

POLL_S = 5.0
LOST_AFTER_S = 600.0
"""How long the API may be unreachable while a run is followed."""
EXIT = {"SUCCEEDED": 0, "FAILED": 1, "SKIPPED": 1, "CANCELED": 130}
"""States in which a run ends, and our exit status."""
WORDS = {
    "PENDING": "waiting",
    "RUNNING": "started",
    "SUCCEEDED": "done",
    "SKIPPED": "cached or skipped",
    "FAILED": "failed",
    "CANCELING": "being cancelled",
    "CANCELED": "cancelled",
    "PAUSED": "paused",
}


def run_on_cluster(spec: Experiment, path: Path, *, cluster_file: Path | None, stream: TextIO) -> int:
    """Compiles, uploads, starts and follows a run; returns 0, 1 if it failed, 130 if it was cancelled."""
    endpoint = Endpoint.from_environment()
    with TemporaryDirectory() as folder:  # a submission's own: another one at the same moment compiles another spec
        file = Path(folder, "pipeline.yaml")
        compile_for_cluster(file, spec, cluster_file=cluster_file)
        cluster = Cluster(endpoint)
        run_id = submit(cluster, spec, path, file=file, stream=stream)
        stages = [task.name for task in ir.load(file).tasks]
    url = endpoint.run_url(run_id)
    try:
        run = follow(cluster, run_id, stages, stream=stream)
    except KeyboardInterrupt:
        stream.write(f"no longer followed; the run continues: {url}\n")
        return 130
    _conclude(run, run_id, url=url, stream=stream)
    return EXIT[run.state]


def submit(cluster: Cluster, spec: Experiment, path: Path, *, file: Path, stream: TextIO) -> str:
    """Uploads the compiled pipeline as a version, once for each content, starts a run of it and returns its id."""
    digest = file_sha256(file)[:12]
    pipeline = ir.load(file)
    pipeline_id = cluster.pipeline(pipeline.name, description="Person re-identification, from images to a model.")
    version_id = cluster.version(pipeline_id, f"{path.stem}-{digest}", file)
    name = spec.mlflow.run_name or f"{path.stem} {datetime.now():%Y-%m-%d %H:%M:%S}"
    run_id = cluster.start(
        name,
        experiment_id=cluster.experiment(spec.mlflow.experiment),
        pipeline_id=pipeline_id,
        version_id=version_id,
        parameters=pipeline.arguments({}),
        mlflow_experiment=spec.mlflow.experiment,
    )
    stream.write(f"{name}: version {path.stem}-{digest} of {pipeline.name}\n{cluster.endpoint.run_url(run_id)}\n")
    stream.flush()
    return run_id


def follow(
    cluster: Cluster,
    run_id: str,
    stages: list[str],
    *,
    stream: TextIO,
    poll_s: float = POLL_S,
    clock: Callable[[], float] = time.monotonic,
) -> Any:
    """Shows each task's state as it changes until the run is over, and returns the run.

    Raises PipelineError if the API is unreachable for too long.
    """
    reached_at, unreachable = clock(), False
    with Display(stream, width=max(map(len, stages))) as display:
        lines = _StateLines(display, clock)
        while True:
            try:
                run = cluster.run(run_id)
            except Unreachable as error:
                if clock() - reached_at > LOST_AFTER_S:
                    url = cluster.endpoint.run_url(run_id)
                    raise PipelineError(f"{error}\n  the run may continue: {url}") from None
                if not unreachable:
                    display.say("", f"{str(error).splitlines()[0]}; asking again")
                unreachable = True
            else:
                reached_at, unreachable = clock(), False
                lines.show(states_of(run, stages))
                if run.state in EXIT:
                    return run
            display.tick()
            time.sleep(poll_s)


class _StateLines:
    """Shows a line for each change of a task's state."""

    def __init__(self, display: Display, clock: Callable[[], float]) -> None:
        self._display, self._clock = display, clock
        self._states: dict[str, str] = {}
        self._started: dict[str, float] = {}

    def show(self, states: Mapping[str, str]) -> None:
        """Shows those of the states (stage -> state) that are new."""
        for stage, state in states.items():
            if state == self._states.get(stage):
                continue
            self._states[stage] = state
            self._started.setdefault(stage, self._clock())
            seconds = self._clock() - self._started[stage]
            took = f" after {duration(seconds)}" if state in {"SUCCEEDED", "FAILED"} else ""
            report = self._display.started if state == "RUNNING" else self._display.ended
            report(stage.replace("-", "_"), f"{WORDS.get(state, state.lower())}{took}")


def states_of(run: Any, stages: list[str]) -> dict[str, str]:
    """Stage -> state of the pipeline's own tasks; the latest attempt of a retried one counts."""
    details = (run.run_details.task_details if run.run_details else None) or []
    found: dict[str, tuple[Any, str]] = {}
    for task in details:
        if task.display_name in stages and task.state:
            when = task.create_time
            earlier = found.get(task.display_name)
            if earlier is None or earlier[0] is None or (when is not None and when >= earlier[0]):
                found[task.display_name] = (when, task.state)
    return {stage: found[stage][1] for stage in stages if stage in found}


def _conclude(run: Any, run_id: str, *, url: str, stream: TextIO) -> None:
    """Shows how the run ended: its state, why, its figures and its page."""
    console = rich_console(stream)
    took = f" in {duration((run.finished_at - run.created_at).total_seconds())}" if run.finished_at else ""
    console.print(f"\nthe run {WORDS[run.state].replace('done', 'succeeded')}{took}", soft_wrap=True)
    if run.error and run.error.message:
        console.print(run.error.message, soft_wrap=True)
    for task in (run.run_details.task_details if run.run_details else None) or ():
        if task.state == "FAILED" and task.error and task.error.message:
            console.print(f"{task.display_name}: {task.error.message}", soft_wrap=True)
    _figures(console, run_id)
    for entry in _plugin_entries(run).values():
        console.print(f"MLflow: {entry.value}", soft_wrap=True)
    console.print(f"page of the run: {url}", soft_wrap=True)


def _figures(console: Console, run_id: str) -> None:
    """Shows the figures that MLflow has, for KFP's API has none."""
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri:
        console.print("figures: on the page of the run; also here if MLFLOW_TRACKING_URI names its MLflow server")
        return
    try:
        figures = figures_of_kfp_run(tracking_uri, run_id)
    except TrackingError as error:
        print(f"figures: {error}", file=sys.stderr)
        return
    if "mAP" in figures:
        console.print(retrieval_table(figures))
    else:
        console.print(f"figures: none of this run at {tracking_uri}", soft_wrap=True)


def _plugin_entries(run: Any) -> Mapping[str, Any]:
    """The addresses that KFP's MLflow plugin gives for the run."""
    output = (run.plugins_output or {}).get("mlflow")
    entries = (output.entries if output else None) or {}
    return {name: entry for name, entry in entries.items() if name.endswith("url")}
