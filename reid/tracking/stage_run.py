"""What a stage logs to MLflow (the pipeline's own run is in `pipeline_run.py`, the model registry in `registry.py`).

The environment is the contract, and it is the one of Kubeflow Pipelines' own MLflow plugin: MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID name where a stage logs. On a cluster without the plugin KFP_RUN_ID, the run of
Kubeflow Pipelines, is enough: the stages find or make both runs. Everything goes through an outbox: a server that is
gone in the middle stops nothing.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from reid.errors import TrackingError
from reid.tracking.journal import Address, Record, Sender, now_ms
from reid.tracking.outbox import Outbox
from reid.tracking.store import as_params, load_mlflow

logger = logging.getLogger(__name__)


class StageRun:
    """What a stage logs to: its nested MLflow run, or nothing where no run is named. No call waits for the store."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox
        self._sender: Sender | None = None
        if outbox is not None:
            self._sender = Sender(outbox.send, waiting=lambda: outbox.waiting, kept_in=outbox.journal.path)

    @classmethod
    def none(cls) -> "StageRun":
        """Logs nothing."""
        return cls()

    @property
    def active(self) -> bool:
        """Whether anything is logged at all."""
        return self._outbox is not None

    @property
    def tracking_uri(self) -> str:
        """The store."""
        return self._outbox.address.store if self._outbox else ""

    @property
    def run_id(self) -> str:
        """The stage's run; TrackingError where it is not known and the store does not answer."""
        if self._outbox is None:
            return ""
        self._outbox.settle()
        return self._outbox.address.run_id

    def _put(self, record: Record) -> None:
        if self._outbox and self._sender:
            self._outbox.journal.append(record)
            self._sender.wake()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Figures at a step (an epoch, say), for the stage's run and the parent; once for each step."""
        if self._outbox and self._sender:
            self._outbox.journal.append_metrics(metrics, step or 0)
            self._sender.wake()

    def log_series(self, name: str, values: Sequence[float]) -> None:
        """A curve: step 1 is the first value. CMC curves of several runs lie over each other in the UI."""
        for step, value in enumerate(values, start=1):
            self.log_metrics({name: value}, step)

    def log_outcome(self, metrics: Mapping[str, float]) -> None:
        """The stage's closing figures, on its own run and on the parent, where runs are compared.

        A figure that has a curve already keeps it: another point at step 0 would spoil it.
        """
        if self._outbox:
            journal = self._outbox.journal
            self.log_metrics({name: value for name, value in metrics.items() if not journal.has_curve(name)})

    def log_dataset(self, name: str, *, fingerprint: str, source: str) -> None:
        """Names the data set of this run and of the parent: the Dataset column of the comparison table."""
        where = json.dumps({"uri": source})
        about = {"name": name, "digest": fingerprint[:8], "source_type": "local", "source": where}
        self._put({"dataset": about, "time": now_ms()})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Parameters, nested ones as "section.field"."""
        self._put({"params": as_params(params)})

    def describe_pipeline(self, *, params: Mapping[str, Any], tags: Mapping[str, str]) -> None:
        """Parameters and tags of the parent: what `open_pipeline_run` does where a runner of ours opens it."""
        self._put({"params": as_params(params), "parent": True})
        self._put({"tags": dict(tags), "parent": True})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Tags of the stage's run."""
        self._put({"tags": dict(tags)})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file into the run's artifacts; it must stay where it is until then."""
        self._put({"artifact": str(path), "folder": folder})

    def flush(self) -> bool:
        """Waits until the store has everything, as long as it takes anything; whether it has."""
        return self._sender.flush() if self._sender else True

    def end(self, status: str) -> None:
        """Closes a run that no runner closes, and its parent where this was the last of its stages."""
        self._put({"end": status, "time": now_ms()})

    def close(self) -> None:
        """Flushes and stops; what could not be sent stays in the journal."""
        if self._outbox and self._sender:
            self._sender.close()
            self._outbox.journal.close()


@contextmanager
def stage_run(stage: str, folder: Path, *, experiment: str = "reid", first: bool = False) -> Iterator[StageRun]:
    """The stage's run as the environment names it; without MLFLOW_TRACKING_URI nothing is logged, and that is said.

    `folder` keeps the outbox; what a killed attempt left there is sent, and its run goes on. Of a pipeline's `first`
    stage TrackingError is raised where the store does not answer; a later one goes on, and the figures follow.
    """
    address = _address(stage, folder, experiment)
    if address is None:
        yield StageRun.none()
        return
    load_mlflow(address.store)
    outbox = Outbox(folder, address)
    if not address.settled:
        try:
            outbox.learn()
        except TrackingError:
            if first:
                outbox.journal.close()
                raise
    run, status = StageRun(outbox), "FAILED"
    try:
        yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if address.kfp_run_id:
            run.end(status)
        run.close()


def _address(stage: str, folder: Path, experiment: str) -> Address | None:
    """Where this stage logs: as the environment says, else as the folder remembers; None for nowhere."""
    store, run_id = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_RUN_ID", "")
    kfp_run_id = "" if run_id else os.environ.get("KFP_RUN_ID", "")
    if not store:
        logger.info("MLflow: MLFLOW_TRACKING_URI is not set; nothing is logged")
        return None
    known = Address.load(folder)
    if known and known.store == store and run_id in ("", known.run_id) and known.kfp_run_id == kfp_run_id:
        known.settled = known.settled and not kfp_run_id  # there the attempt before may have closed its run
        return known
    if not run_id and not kfp_run_id:
        logger.info("MLflow: MLFLOW_RUN_ID is not set; nothing is logged")
        return None
    return Address(store, stage, run_id, kfp_run_id=kfp_run_id, experiment=experiment)
