"""Runs on a cluster: one is submitted and followed; one that was submitted before is looked at, cancelled, retried."""

import re
from pathlib import Path
from typing import Any, TextIO

from pipelines.cluster.api import Cluster
from pipelines.cluster.conclusion import HOW, conclude
from pipelines.cluster.endpoint import Endpoint
from pipelines.cluster.following import follow
from pipelines.cluster.schedule import cron_of
from pipelines.cluster.stage_states import OVER, WORDS, outcome
from pipelines.cluster.submission import repeat, submit
from reid.errors import PipelineError
from reid.spec import Experiment

EXIT = {"SUCCEEDED": 0, "FAILED": 1, "SKIPPED": 1, "CANCELED": 130}
"""States in which a run ends, and our exit status."""
COMMAND = "python -m pipelines"
ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
ID_CHARS = 4
"""The fewest first characters of an id that stand for it."""


def run_on_cluster(
    spec: Experiment,
    path: Path,
    *,
    cluster_file: Path | None,
    stream: TextIO,
    detach: bool = False,
    every: str | None = None,
) -> int:
    """Compiles, uploads, starts and follows a run; returns 0, 1 if it failed, 130 if it was cancelled.

    If `detach`, the run is not followed. With `every`, a crontab's five fields, a recurring run is made instead.
    """
    cron = cron_of(every) if every else None
    cluster = Cluster(Endpoint.from_environment())
    if cron:
        repeat(cluster, spec, path, cron=cron, cluster_file=cluster_file, stream=stream)
        return 0
    run_id = submit(cluster, spec, path, cluster_file=cluster_file, stream=stream)
    if detach:
        stream.write(f"not followed; to pick it up: {COMMAND} wait {run_id}\n")
        return 0
    return _wait(cluster, run_id, stream)


def command(name: str, asked: str, *, stream: TextIO) -> int:
    """Does what is asked of the run with this id, beginning of an id, or name; returns the exit status.

    status: shows where it is. wait: follows it to its end. cancel: ends it. retry: runs what failed in it again.
    """
    cluster = Cluster(Endpoint.from_environment())
    run = _find(cluster, asked)
    run_id, ended = run.run_id, outcome(run) if run.state in OVER else ""
    stream.write(f"{run.display_name} ({run_id})\n")
    if name == "status":
        run, workflow = follow(cluster, run_id, stream=stream, once=True)
        if run.state in OVER:
            conclude(cluster, run, workflow, stream=stream)
            return EXIT[outcome(run)]
        stream.write(f"the run is {'going on' if run.state == 'RUNNING' else WORDS.get(run.state, run.state)}\n")
        return 0
    if name == "cancel":
        if ended:
            raise PipelineError(f"run {run_id}: is over: it {HOW[ended]}\n  want: a run that goes on")
        cluster.terminate(run_id)
        stream.write("being cancelled\n")
        return 0 if _wait(cluster, run_id, stream) == EXIT["CANCELED"] else 1
    if name == "retry":
        if ended not in {"FAILED", "CANCELED"}:
            state = "goes on" if not ended else f"is over: it {HOW[ended]}"
            raise PipelineError(f"run {run_id}: {state}\n  want: a run that failed or was cancelled")
        cluster.retry(run_id)
        stream.write("what failed in it runs again\n")
    return _wait(cluster, run_id, stream)


def _wait(cluster: Cluster, run_id: str, stream: TextIO) -> int:
    """Follows a run to its end. Ctrl-C leaves the run as it is."""
    try:
        run, workflow = follow(cluster, run_id, stream=stream)
    except KeyboardInterrupt:
        stream.write(f"no longer followed; the run continues. To pick it up: {COMMAND} wait {run_id}\n")
        return 130
    conclude(cluster, run, workflow, stream=stream)
    return EXIT[outcome(run)]


def _find(cluster: Cluster, asked: str) -> Any:
    """The run with this id, beginning of an id, or name. Raises PipelineError if there is none, or more than one."""
    if ID.fullmatch(asked):
        return cluster.run(asked)
    found = [
        run
        for run in cluster.runs()
        if run.display_name == asked or (len(asked) >= ID_CHARS and run.run_id.startswith(asked))
    ]
    if len(found) == 1:
        return found[0]
    if not found:
        raise PipelineError(
            f"run {asked!r}: no such run at {cluster.endpoint.shown}\n"
            f"  want: the id of a run, its first {ID_CHARS} characters or more, or its name"
        )
    raise PipelineError(
        f"run {asked!r}: {len(found)} runs are called so\n"
        f"  want: the id of one of them: {', '.join(run.run_id for run in found[:5])}{' …' if len(found) > 5 else ''}"
    )
