"""The one way from a journal to MLflow: each record becomes the call that it stands for.

    {"metrics": {name: value}, "step", "time"}   to the run and its parent; on the parent under `on_parent`'s names
    {..., "logged_model": {...}}                 such metrics, on the run also bound to a model and its data sets
    {"dataset": {...}}                           to the run and its parent
    {"params": {name: text}}                     to the run
    {"tags": {name: text}}                       to the run
    {"artifact": path, "folder"}                 to the run
    {"start": time}                              the run is open again, and so is a parent that no runner holds
    {"end": status, "time"}                      the run has ended, and after its last stage also such a parent
    {"experiment_page": true}                    the experiment's page shows mAP and CMC rank 1
    {"killed_runs_of": host}                     closes the runs of processes of this machine that no longer exist

Params and tags with `"parent": true` go to the parent alone. Every call may be repeated: MLflow keeps one row for
equal points of a metric and for equal params, a tag and a file are overwritten, a run ends at the record's time.
"""

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.experiment import set_up_page
from reid.tracking.journal import Address, Journal, Record
from reid.tracking.logged_model import bind
from reid.tracking.runs import close_killed_runs, close_parent, reopen
from reid.tracking.store import on_parent, one_line, refuses_for_good

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

METRICS_IN_A_CALL, PARAMS_IN_A_CALL, TAGS_IN_A_CALL = 1000, 90, 90
"""MLflow takes at most 1000 metrics, 100 parameters and 100 tags in one call."""
PARAM_LENGTH = 6000


def replay(journal: Journal, address: Address, client: "MlflowClient") -> None:
    """Sends the next records to the address's run and to its parent, and notes in `address.sent` what has arrived."""
    for target in filter(None, (address.run_id, address.parent_id)):
        start = address.sent.get(target, 0)
        records, end = journal.after(start)
        if end > start:
            _send(client, address, target, records)
            address.sent[target] = end


def _send(client: "MlflowClient", address: Address, target: str, records: Sequence[Record]) -> None:
    """Sends records to one run; what MLflow refuses for good is logged and left out."""
    from mlflow.exceptions import MlflowException

    for record in _join_metrics(address, target, records):
        try:
            _send_one(client, address, target, record)
        except MlflowException as error:
            if not refuses_for_good(error):
                raise
            logger.warning("MLflow refuses a record of run %s: %s", target, one_line(str(error)))


def _join_metrics(address: Address, target: str, records: Sequence[Record]) -> Iterator[Record]:
    """Yields the records; consecutive metrics are joined into one: {"rows": [(name, value, time, step), ...]}.

    Points that an earlier attempt has logged are left out: a retried pod repeats them in a journal of its own.
    """
    rows: list[tuple[str, float, int, int]] = []
    logged = address.before.get(target, {})
    for record in records:
        if "metrics" in record:
            metrics = record["metrics"]
            named = on_parent(address.stage, metrics) if target == address.parent_id else metrics
            step = record["step"]
            rows += [
                (name, value, record["time"], step) for name, value in named.items() if step > logged.get(name, -1)
            ]
            if "logged_model" in record and target == address.run_id:
                yield from _calls(rows)
                rows = []
                yield {"bound": record}
        else:
            yield from _calls(rows)
            rows = []
            yield record
    yield from _calls(rows)


def _calls(rows: list[tuple[str, float, int, int]]) -> Iterator[Record]:
    for start in range(0, len(rows), METRICS_IN_A_CALL):
        yield {"rows": rows[start : start + METRICS_IN_A_CALL]}


def _send_one(client: "MlflowClient", address: Address, target: str, record: Record) -> None:
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    if "rows" in record:
        client.log_batch(target, metrics=[Metric(*row) for row in record["rows"]])
    elif "bound" in record:
        bind(client, target, record["bound"])
    elif "dataset" in record:
        client.log_inputs(target, [DatasetInput(dataset=Dataset(**record["dataset"]), tags=[])])
    elif record.get("parent", False) != (target == address.parent_id):
        return
    elif "params" in record:
        params = [Param(name, value[:PARAM_LENGTH]) for name, value in record["params"].items()]
        for start in range(0, len(params), PARAMS_IN_A_CALL):
            client.log_batch(target, params=params[start : start + PARAMS_IN_A_CALL])
    elif "tags" in record:
        tags = [RunTag(name, value) for name, value in record["tags"].items()]
        for start in range(0, len(tags), TAGS_IN_A_CALL):
            client.log_batch(target, tags=tags[start : start + TAGS_IN_A_CALL])
    elif "artifact" in record:
        if Path(record["artifact"]).exists():
            client.log_artifact(target, record["artifact"], record["folder"])
        else:
            logger.warning("%s: removed before it was sent to MLflow", record["artifact"])
    else:
        _change_state(client, address, target, record)


def _change_state(client: "MlflowClient", address: Address, target: str, record: Record) -> None:
    unheld_parent = address.parent_id if address.kfp_run_id and not address.held else ""
    if "experiment_page" in record:
        set_up_page(client, client.get_run(target).info.experiment_id)
    elif "killed_runs_of" in record:
        close_killed_runs(client, target, host=record["killed_runs_of"])
    elif "start" in record:
        for run_id in filter(None, (target, unheld_parent)):
            reopen(client, run_id)
    elif "end" in record:
        client.set_terminated(target, record["end"], end_time=record["time"])
        if unheld_parent:
            close_parent(client, unheld_parent)
