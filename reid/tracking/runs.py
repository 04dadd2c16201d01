"""Finding, creating, opening and closing runs in the MLflow store.

The runs of one pipeline run are found by their tags, so a retried stage, a second process or a lost answer does not
create another: the parent by the key of its journal, or by `kfp.pipeline_run_id` as Kubeflow Pipelines' own MLflow
plugin tags it; the run of a stage by its parent and its stage. The plugin makes a nested run for each task too, without
telling the stage unless its `injectUserEnvVars` is set; the stage then finds that run by the task's name.
"""

import os
import socket
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from reid.errors import TrackingError
from reid.files.processes import is_alive
from reid.files.secrets import without_password
from reid.tracking.experiment import experiment_id
from reid.tracking.journal import Address
from reid.tracking.store import HOST, KEY, KFP_RUN, PARENT, PLUGIN, PROCESS, STAGE, on_parent

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


def settle(client: "MlflowClient", address: Address) -> None:
    """Finds or creates the address's run and its parent, and sets their ids in the address.

    Raises TrackingError if the store answers without an id, MlflowException if it refuses.
    """
    known = _run(client, address)
    run = known or _find_or_create(client, address)
    if not run.info.run_id:
        raise _no_run_id(address, "the run")
    address.run_id = run.info.run_id
    address.parent_id = address.parent_id or run.data.tags.get(PARENT, "")
    if address.stage and STAGE not in run.data.tags:
        client.set_tag(address.run_id, STAGE, address.stage)
    if address.stage and run.data.metrics and not address.sent.get(address.run_id):
        _note_earlier_attempt(client, address, list(run.data.metrics))
    address.settled = True


def _run(client: "MlflowClient", address: Address) -> "Run | None":
    """Returns the run whose id is known; None if none is, or if a run that can be created again was deleted."""
    from mlflow.exceptions import MlflowException

    if not address.run_id:
        return None
    try:
        return client.get_run(address.run_id)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST" or not address.parent_id:
            raise
        return None


def _no_run_id(address: Address, wanted: str) -> TrackingError:
    store = without_password(address.store)
    return TrackingError(f"MLflow at {store}: found an answer without a run's id, want {wanted}")


def _find_or_create(client: "MlflowClient", address: Address) -> "Run":
    """Returns the run with the address's tags; parents that a stage's run needs are found or created first."""

    def experiment() -> str:
        return experiment_id(client, address.store, address.experiment)

    if not address.stage:
        return _tagged(client, [experiment()], {KEY: address.key}, name=None, create_in=experiment)
    if not address.parent_id:
        everywhere = [found.experiment_id for found in client.search_experiments()]  # the plugin may have made it
        name, tags = f"kfp {address.kfp_run_id[:8]}", {KFP_RUN: address.kfp_run_id}
        parent = _tagged(client, everywhere, tags, name=name, create_in=experiment)
        address.parent_id, address.held = parent.info.run_id, PLUGIN in parent.data.tags
        if not address.parent_id:
            raise _no_run_id(address, "the parent run")
    parent = client.get_run(address.parent_id)
    if address.held and (made := _made_by_plugin(client, parent, address.stage)):
        return made
    place = parent.info.experiment_id
    tags = {PARENT: address.parent_id, STAGE: address.stage}
    return _tagged(client, [place], tags, name=address.stage, create_in=lambda: place)


def _made_by_plugin(client: "MlflowClient", parent: "Run", stage: str) -> "Run | None":
    """Returns the run that the plugin made for the task of this stage; None if the stage has a run of its own."""
    nested = children(client, parent)
    if any(run.data.tags.get(STAGE) == stage for run in nested):
        return None
    named = [run for run in nested if run.info.run_name == stage.replace("_", "-")]
    return min(named, key=lambda run: (run.info.start_time, run.info.run_id), default=None)


def _tagged(
    client: "MlflowClient",
    experiments: list[str],
    tags: Mapping[str, str],
    *,
    name: str | None,
    create_in: Callable[[], str],
) -> "Run":
    """Returns the oldest run with these tags, created if there is none; of two created at once, one is deleted."""
    query = " and ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())

    def found(places: list[str]) -> "list[Run]":
        runs = [run for run in client.search_runs(places, query) if PARENT in tags or PARENT not in run.data.tags]
        return sorted(runs, key=lambda run: (run.info.start_time, run.info.run_id))

    runs = found(experiments)
    if not runs:
        place = create_in()
        made = client.create_run(place, run_name=name, tags=dict(tags))
        runs = found([*experiments, place]) or [made]
        if runs[0].info.run_id != made.info.run_id:
            client.delete_run(made.info.run_id)
    return runs[0]


def _note_earlier_attempt(client: "MlflowClient", address: Address, metrics: list[str]) -> None:
    """Notes how far the curves of an earlier attempt, whose journal is gone, have arrived at the run and its parent."""
    for target, names in (
        (address.run_id, metrics),
        (address.parent_id, list(on_parent(address.stage, dict.fromkeys(metrics, 0.0)))),
    ):
        if target:
            steps = {name: [row.step for row in client.get_metric_history(target, name)] for name in names}
            address.before[target] = {name: max(rows) for name, rows in steps.items() if rows}


def reopen(client: "MlflowClient", run_id: str) -> None:
    """Sets a run that has ended back to running."""
    if client.get_run(run_id).info.status != "RUNNING":
        client.update_run(run_id, status="RUNNING")


def close_parent(client: "MlflowClient", parent_id: str) -> None:
    """Ends a parent that no runner holds, as its stages' runs ended; the next stage, if any, opens it again."""
    states = {run.info.status for run in children(client, client.get_run(parent_id))}
    if "RUNNING" not in states:
        client.set_terminated(parent_id, next((bad for bad in ("FAILED", "KILLED") if bad in states), "FINISHED"))


def close_killed_runs(client: "MlflowClient", beside: str, *, host: str) -> None:
    """Closes running runs of processes of this machine that no longer exist (kill -9), in the experiment of `beside`.

    MLflow would show them as running for ever. Does nothing on another machine than `host`.
    """
    if host != socket.gethostname():
        return
    query = f"attributes.status = 'RUNNING' and tags.`{HOST}` = '{host}'"
    for run in client.search_runs([client.get_run(beside).info.experiment_id], query):
        tag = run.data.tags.get(PROCESS, "")
        process = int(tag) if tag.isdecimal() and len(tag) < 10 else 0
        if process and process != os.getpid() and not is_alive(process):
            for one in [*children(client, run), run]:
                if one.info.status == "RUNNING":
                    client.set_terminated(one.info.run_id, "KILLED")


def parents_of_kfp_run(client: "MlflowClient", kfp_run_id: str) -> "list[Run]":
    """Returns the parent runs, in any experiment, of a run of Kubeflow Pipelines: one, or none."""
    everywhere = [found.experiment_id for found in client.search_experiments()]
    runs = client.search_runs(everywhere, f"tags.`{KFP_RUN}` = '{kfp_run_id}'")
    return [run for run in runs if PARENT not in run.data.tags]


def children(client: "MlflowClient", parent: "Run") -> "list[Run]":
    """Returns the nested runs of a parent."""
    return list(client.search_runs([parent.info.experiment_id], f"tags.`{PARENT}` = '{parent.info.run_id}'"))
