"""The way from a journal to MLflow: each record becomes the call that it stands for.

A record is {"metrics", "step", "time"}, {"params"}, {"tags"}, {"artifact", "folder"}, {"dataset"} or {"end"}.
Figures and data sets go to the run and its parent, what says `"parent": true` to the parent alone, the rest to the run.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.journal import Address, Journal, Record
from reid.tracking.store import REFUSED, close_parent, connect, log_params, on_parent, reaching, settle

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)

METRICS_IN_A_CALL = 1000
"""MLflow takes no more."""


class Outbox:
    """The journal of one run, its address, and the way there."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder, self.address, self.journal = folder, address, Journal(folder)
        address.save(folder)
        self._client: MlflowClient | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Whether a target lacks something."""
        sent = self.address.sent
        targets = [self.address.run_id, *filter(None, [self.address.parent_id])]
        return self.journal.size() > min(sent.get(target, 0) for target in targets)

    def settle(self) -> None:
        """Finds or makes the runs now; TrackingError where the store does not answer."""
        with self._lock:
            self._settle()

    def learn(self) -> None:
        """Settles, and asks what an earlier attempt logged whose journal is gone: it is not logged again."""
        with self._lock:
            client, run_id = self._settle(), self.address.run_id
            with reaching(self.address.store):
                for name in client.get_run(run_id).data.metrics:
                    self.journal.know((name, row.step) for row in client.get_metric_history(run_id, name))

    def _settle(self) -> "MlflowClient":
        self._client = self._client or connect(self.address.store)
        if not self.address.settled:
            with reaching(self.address.store):
                settle(self._client, self.address)
            self.address.save(self.folder)
        return self._client

    def send(self) -> int:
        """Brings the next records to each target; how many. TrackingError where the store does not answer."""
        with self._lock:
            client, count = self._settle(), 0
            for target in filter(None, (self.address.run_id, self.address.parent_id)):
                start = self.address.sent.get(target, 0)
                records, end = self.journal.after(start)
                if end > start:
                    with reaching(self.address.store):
                        _bring(client, self.address, target, records)
                    self.address.sent[target] = end
                    self.address.save(self.folder)
                    count += len(records)
            return count


def _bring(client: "MlflowClient", address: Address, target: str, records: Sequence[Record]) -> None:
    """Puts records on the address's run, or what of them its parent shows on the parent; what is refused is told."""
    from mlflow.exceptions import MlflowException

    to_parent = target == address.parent_id
    for record in _joined(records, on_parent_of=address.stage if to_parent else None):
        try:
            _bring_one(client, address, target, record, to_parent=to_parent)
        except MlflowException as error:
            if error.error_code not in REFUSED:
                raise
            logger.warning("MLflow refuses a record of run %s: %s", target, str(error).splitlines()[0])


def _joined(records: Sequence[Record], on_parent_of: str | None) -> Iterator[Record]:
    """The records, figures that follow each other in one: {"rows": [(name, value, time, step), ...]}."""
    rows: list[tuple[str, float, int, int]] = []
    for record in records:
        if "metrics" in record:
            metrics = record["metrics"] if on_parent_of is None else on_parent(on_parent_of, record["metrics"])
            rows += [(name, value, record["time"], record["step"]) for name, value in metrics.items()]
        else:
            yield from _calls(rows)
            rows = []
            yield record
    yield from _calls(rows)


def _calls(rows: list[tuple[str, float, int, int]]) -> Iterator[Record]:
    for start in range(0, len(rows), METRICS_IN_A_CALL):
        yield {"rows": rows[start : start + METRICS_IN_A_CALL]}


def _bring_one(client: "MlflowClient", address: Address, target: str, record: Record, *, to_parent: bool) -> None:
    from mlflow.entities import Dataset, DatasetInput, Metric

    if "rows" in record:
        client.log_batch(target, metrics=[Metric(*row) for row in record["rows"]])
    elif "dataset" in record:
        client.log_inputs(target, [DatasetInput(dataset=Dataset(**record["dataset"]), tags=[])])
    elif record.get("parent", False) != to_parent:
        return
    elif "params" in record:
        log_params(client, target, record["params"])
    elif "tags" in record:
        for name, value in record["tags"].items():
            client.set_tag(target, name, value)
    elif "artifact" in record:
        if Path(record["artifact"]).exists():
            client.log_artifact(target, record["artifact"], record["folder"])
        else:
            logger.warning("%s: gone before MLflow had it", record["artifact"])
    elif "end" in record:
        client.set_terminated(target, record["end"], end_time=record["time"])
        if address.kfp_run_id and address.parent_id:
            close_parent(client, address.parent_id)
