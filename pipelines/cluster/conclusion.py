"""The end of a run on a cluster: how it ended, why, its figures and its page, and MLflow's runs of it ended."""

import os
import sys
from collections.abc import Mapping
from typing import Any, TextIO

from rich.console import Console

from pipelines.cluster.api import Cluster
from pipelines.cluster.metadata import figures_in_metadata
from pipelines.cluster.pages import pages_of, run_page
from pipelines.cluster.stage_states import outcome, tasks_of
from pipelines.cluster.workflow import DRIVER, Pod, Workflow, last_lines, shortened
from pipelines.summary import retrieval_table
from reid.console.progress import duration
from reid.console.tables import rich_console
from reid.errors import TrackingError
from reid.files.secrets import without_password
from reid.tracking.pipeline_run import end_runs_of_kfp_run, figures_of_kfp_run

HOW = {"SUCCEEDED": "succeeded", "FAILED": "failed", "SKIPPED": "was skipped", "CANCELED": "was cancelled"}
MLFLOW_STATUS = {"FAILED": "FAILED", "CANCELED": "KILLED"}
"""How a run ended -> the status of what MLflow still has as running of it."""


def conclude(cluster: Cluster, run: Any, workflow: Workflow | None, *, stream: TextIO) -> None:
    """Shows how a run that is over ended, and ends in MLflow what the run could not end itself."""
    console, ended = rich_console(stream), outcome(run)
    over = run.finished_at and run.finished_at >= run.created_at
    took = f" in {duration((run.finished_at - run.created_at).total_seconds())}" if over else ""
    _say(console, f"\nthe run {HOW[ended]}{took}")
    if run.error and run.error.message:
        _say(console, run.error.message)
    if ended == "FAILED":
        _why(console, cluster, run, workflow)
    pages = pages_of(cluster)
    _figures(console, cluster, pages, run.run_id, wanted=ended == "SUCCEEDED")
    _end_in_mlflow(console, run.run_id, ended)
    for entry in _plugin_entries(run).values():
        _say(console, f"MLflow: {entry.value}")
    if pages:
        _say(console, f"page of the run: {run_page(pages, run.run_id)}")


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True)


def _why(console: Console, cluster: Cluster, run: Any, workflow: Workflow | None) -> None:
    """Shows what failed: by Argo's workflow with the last lines of the log, else by what KFP's API says."""
    if workflow is not None:
        if workflow.message:
            _say(console, f"Argo: {shortened(workflow.message)}")
        for pod in workflow.failed():
            _failed_pod(console, cluster, run.run_id, pod, workflow)
        return
    namespace, tasks = cluster.endpoint.namespace or "kubeflow", tasks_of(run)
    for name, task in tasks.items():
        if task.state == "FAILED" and f"{name}{DRIVER}" in tasks and name != "root":
            said = f": {task.error.message}" if task.error and task.error.message else ""
            _say(console, f"{name.replace('-', '_')} failed{said}")
    _say(console, f"the pods of the run: kubectl get pods -n {namespace} -l pipeline/runid={run.run_id}")


def _failed_pod(console: Console, cluster: Cluster, run_id: str, pod: Pod, workflow: Workflow) -> None:
    stage = pod.stage.replace("-", "_")
    said = [pod.message, workflow.ended.get((pod.stage, pod.driver), "")]
    why = "; ".join(dict.fromkeys(shortened(text) for text in said if text)) or pod.phase
    _say(console, f"{f'the driver of {stage}' if pod.driver else stage} failed: {why}")
    lines = last_lines(cluster, run_id, pod, namespace=workflow.namespace)
    if lines:
        _say(console, f"the last lines of its log (pod {pod.name}):")
        for line in lines:
            _say(console, f"  {line}")
    else:
        _say(console, f"its log: kubectl logs -n {workflow.namespace or 'kubeflow'} {pod.name} -c main")


def _figures(console: Console, cluster: Cluster, pages: str, run_id: str, *, wanted: bool) -> None:
    """Shows the figures that MLflow has, else those of KFP's own metrics, which also has those of a cached stage.

    If there are none and they are `wanted`, it says why.
    """
    tracking_uri, figures = os.environ.get("MLFLOW_TRACKING_URI"), {}
    if tracking_uri:
        try:
            figures = figures_of_kfp_run(tracking_uri, run_id)
        except TrackingError as error:
            print(f"figures: {error}", file=sys.stderr)
    if "mAP" not in figures and pages:
        figures = figures_in_metadata(cluster, pages, run_id)
    if "mAP" in figures:
        console.print(retrieval_table(figures))
    if "mAP" in figures or not wanted:
        return
    missing = [
        f"MLflow at {without_password(tracking_uri)} has none"
        if tracking_uri
        else "MLFLOW_TRACKING_URI names no MLflow"
    ]
    missing.append("Kubeflow's web server gives none" if pages else "KFP_UI names no web server of Kubeflow")
    _say(console, f"figures: none found for this run: {', '.join(missing)}")


def _end_in_mlflow(console: Console, run_id: str, ended: str) -> None:
    """Ends what MLflow has as running of a run that is over, for a pod that is killed cannot do it."""
    tracking_uri = os.environ.get("MLFLOW_TRACKING_URI")
    if not tracking_uri or ended not in MLFLOW_STATUS:
        return
    try:
        count = end_runs_of_kfp_run(tracking_uri, run_id, MLFLOW_STATUS[ended])
    except TrackingError as error:
        print(f"MLflow: {error}", file=sys.stderr)
        return
    if count:
        _say(console, f"MLflow: ended what was still running there ({count}), as {MLFLOW_STATUS[ended]}")


def _plugin_entries(run: Any) -> Mapping[str, Any]:
    """The addresses that KFP's MLflow plugin gives for the run."""
    output = (run.plugins_output or {}).get("mlflow")
    entries = (output.entries if output else None) or {}
    return {name: entry for name, entry in entries.items() if name.endswith("url")}
