"""What a stage logs to MLflow (`pipeline_run.py` has the run of a whole pipeline, `registry.py` the model registry).

The environment says where a stage logs, in the variables of Kubeflow Pipelines' own MLflow plugin:
MLFLOW_TRACKING_URI, MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID. On a cluster where the plugin is off, or does not set them,
KFP_RUN_ID (the run of Kubeflow Pipelines) is enough: the stages find or create their own run and its parent. Logging
appends to a journal (`journal.py`), so a server that is away stops nothing.
"""

import json
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from reid.tracking.first_contact import settle_when_up
from reid.tracking.journal import Address, Record, now_ms
from reid.tracking.outbox import Outbox
from reid.tracking.sender import Sender
from reid.tracking.stop_signal import told_of_sigterm
from reid.tracking.store import as_params, load_mlflow

logger = logging.getLogger(__name__)


class StageRun:
    """The nested MLflow run of a stage, or nothing if no run is named. No call waits for the store."""

    def __init__(self, outbox: Outbox | None = None) -> None:
        self._outbox = outbox
        self._sender: Sender | None = None
        self._of_model: Record | None = None
        if outbox is not None:
            self._sender = Sender(outbox.send, waiting=lambda: outbox.waiting, kept_in=outbox.journal.path)

    @classmethod
    def none(cls) -> "StageRun":
        """Returns a run that logs nothing."""
        return cls()

    @property
    def active(self) -> bool:
        """Whether anything is logged at all."""
        return self._outbox is not None

    @property
    def tracking_uri(self) -> str:
        """The address of the store; empty if nothing is logged."""
        return self._outbox.address.store if self._outbox else ""

    @property
    def run_id(self) -> str:
        """The id of the stage's run; raises TrackingError if it is not known and the store does not answer."""
        if self._outbox is None:
            return ""
        self._outbox.settle()
        return self._outbox.address.run_id

    def _append(self, record: Record) -> None:
        if self._outbox and self._sender:
            self._outbox.journal.append(record)
            self._sender.wake()

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs metrics at a step (an epoch, for example) on the stage's run and on the parent, once for each step."""
        if self._outbox and self._sender:
            self._outbox.journal.append_metrics(metrics, step or 0)
            self._sender.wake()

    def log_series(self, name: str, values: Sequence[float]) -> None:
        """Logs a curve; the first value has step 1. MLflow draws the CMC curves of several runs in one chart."""
        for step, value in enumerate(values, start=1):
            self.log_metrics({name: value}, step)

    def log_outcome(self, metrics: Mapping[str, float]) -> None:
        """Logs the stage's final figures on its own run and on the parent, where runs are compared.

        A metric that has a curve is left out: one more point at step 0 would spoil the curve.
        """
        if self._outbox:
            journal = self._outbox.journal
            plain = {name: value for name, value in metrics.items() if not journal.has_curve(name)}
            journal.append_metrics(plain, 0, self._of_model)
            if self._sender:
                self._sender.wake()

    def bind_outcome(
        self,
        name: str,
        *,
        kind: str,
        params: Mapping[str, str],
        tags: Mapping[str, str],
        datasets: Sequence[Mapping[str, str]],
    ) -> None:
        """Lets `log_outcome` bind the figures to a model of this name and to data sets, for the model's page in MLflow.

        datasets: as `described_dataset` makes them, the main one first; see logged_model.py.
        """
        described = {"name": name, "kind": kind, "params": dict(params), "tags": dict(tags)}
        self._of_model = {"logged_model": {**described, "datasets": [dict(entry) for entry in datasets]}}

    def log_dataset(self, name: str, *, fingerprint: str, source: str) -> None:
        """Names the data set of this run and of the parent: the Dataset column of MLflow's run table."""
        about = described_dataset(name, fingerprint=fingerprint, source=source)
        self._append({"dataset": about, "time": now_ms()})

    def log_params(self, params: Mapping[str, Any]) -> None:
        """Logs parameters, nested ones as "section.field"."""
        self._append({"params": as_params(params)})

    def describe_pipeline(self, *, params: Mapping[str, Any], tags: Mapping[str, str], spec: Path) -> None:
        """Logs parameters, tags and the spec's file of the parent, as the runner does on one machine."""
        self._append({"params": as_params(params), "parent": True})
        self._append({"tags": dict(tags), "parent": True})
        self._append({"artifact": str(spec), "folder": None, "parent": True})
        self._append({"experiment_page": True})

    def set_tags(self, tags: Mapping[str, str], *, parent_too: bool = False) -> None:
        """Sets tags of the stage's run, and perhaps of the parent, where runs are compared."""
        self._append({"tags": dict(tags)})
        if parent_too:
            self._append({"tags": dict(tags), "parent": True})

    def log_artifact(self, path: Path, folder: str | None = None) -> None:
        """Copies a file into the run's artifacts; the file must stay where it is until then."""
        self._append({"artifact": str(path), "folder": folder})

    def start(self) -> None:
        """Opens the run again if an earlier attempt has ended it."""
        self._append({"start": now_ms()})

    def end(self, status: str) -> None:
        """Ends a run that no runner ends, and its parent if this was the last of its stages."""
        self._append({"end": status, "time": now_ms()})

    def end_at_once(self) -> None:
        """Ends the run as killed, before a process that is asked to stop can stop; a later `end` replaces it."""
        self.end("KILLED")
        if self._sender:
            self._sender.hurry()

    def flush(self) -> bool:
        """Waits until the store has everything, as long as it takes anything; returns whether it has."""
        return self._sender.flush() if self._sender else True

    def close(self) -> bool:
        """Flushes and stops; returns whether the store has everything. The rest stays in the journal."""
        done = True
        if self._outbox and self._sender:
            done = self._sender.close()
            self._outbox.journal.close()
        return done


def described_dataset(name: str, *, fingerprint: str, source: str) -> dict[str, str]:
    """Returns a data set as MLflow describes one: its name, the start of its fingerprint, and where it lies."""
    where = json.dumps({"uri": source})
    return {"name": name, "digest": fingerprint[:8], "source_type": "local", "source": where}


@contextmanager
def stage_run(stage: str, folder: Path, *, experiment: str = "reid", first: bool = False) -> Iterator[StageRun]:
    """Opens the stage's run that the environment names. Without MLFLOW_TRACKING_URI it logs nothing, and says so.

    `folder` keeps the journal; a retried attempt sends what a killed one left there and continues its run. In the
    `first` stage of a pipeline, raises TrackingError if the store does not answer, on a cluster after having waited for
    it (`first_contact.py`); a later stage runs, and its figures
    are sent when the store answers. A pod that is stopped has less than a second: its run is ended before its work is.
    """
    address = _address(stage, folder, experiment)
    if address is None:
        yield StageRun.none()
        return
    load_mlflow(address.store)
    outbox = Outbox(folder, address)
    if first:
        try:
            if os.environ.get("KFP_RUN_ID"):
                settle_when_up(outbox)
            else:  # the pipeline's runner has reached the store already
                outbox.settle()
        except BaseException:
            outbox.journal.close()
            raise
    run, status = StageRun(outbox), "FAILED"
    run.start()
    try:
        with told_of_sigterm(run.end_at_once) if address.kfp_run_id else nullcontext():
            yield run
        status = "FINISHED"
    except KeyboardInterrupt:
        status = "KILLED"
        raise
    finally:
        if address.kfp_run_id:
            run.end(status)
        run.close()


def send_what_is_left(folder: Path) -> bool:
    """Sends the rest of the journal in this folder, if there is one; returns whether MLflow has all of it now."""
    address = Address.load(folder)
    if address is None:
        return True
    load_mlflow(address.store)
    return StageRun(Outbox(folder, address)).close()


def _address(stage: str, folder: Path, experiment: str) -> Address | None:
    """Returns where this stage logs: as the folder remembers if the environment agrees, else as the environment says.

    None if the environment names no run.
    """
    store, run_id = os.environ.get("MLFLOW_TRACKING_URI"), os.environ.get("MLFLOW_RUN_ID", "")
    kfp_run_id = "" if run_id else os.environ.get("KFP_RUN_ID", "")
    if not store:
        logger.info("MLflow: MLFLOW_TRACKING_URI is not set; nothing is logged")
        return None
    known = Address.load(folder)
    if known and known.store == store and run_id in ("", known.run_id) and known.kfp_run_id == kfp_run_id:
        return known
    if not run_id and not kfp_run_id:
        logger.info("MLflow: MLFLOW_RUN_ID is not set; nothing is logged")
        return None
    return Address(store, stage, run_id, kfp_run_id=kfp_run_id, experiment=experiment)
