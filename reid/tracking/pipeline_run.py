"""The MLflow run of a pipeline that runs on this machine, and the nested runs of its stages.

One pipeline run is one parent run; each stage that really ran is one nested run, also if it was interrupted and
resumed. The parent has a journal of its own (`journal.py`) in `results_dir`/runs/mlflow, which is removed once MLflow
has all of it. After the start, nothing here waits for a server that is away.
"""

import getpass
import logging
import os
import shutil
import socket
import threading
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from reid.errors import ReidError, TrackingError
from reid.tracking.experiment import figures_page
from reid.tracking.journal import ADDRESS, JOURNAL, Address, now_ms, tags_of_the_pipeline
from reid.tracking.outbox import Outbox
from reid.tracking.runs import children, parents_of_kfp_run
from reid.tracking.sender import Sender
from reid.tracking.store import (
    CACHED_RUN,
    CONTINUED,
    HOST,
    PARENT,
    PROCESS,
    as_params,
    connect,
    is_refusal,
    on_parent,
    reaching,
)

logger = logging.getLogger(__name__)


class PipelineRun:
    """The parent run of one pipeline run, held by the process that runs the pipeline on this machine."""

    def __init__(self, own: Outbox, experiment: str) -> None:
        self.tracking_uri, self.run_id, self.experiment_id = own.address.store, own.address.run_id, experiment
        self._own, self._outboxes = own, [own]
        self._lock = threading.Lock()
        self._sender = Sender(self._send, waiting=self._waiting, kept_in=own.folder.parent)

    @property
    def figures_page(self) -> str:
        """The address, below that of MLflow's UI, of a table of all runs of the experiment with their mAP."""
        return figures_page(self.experiment_id)

    def _waiting(self) -> bool:
        return any(outbox.waiting for outbox in self._outboxes)

    def _send(self) -> int:
        count, trouble = 0, None
        with self._lock:
            for outbox in list(self._outboxes):
                try:
                    count += outbox.send() if outbox.waiting else 0
                except ReidError as error:
                    if is_refusal(error):  # its run was deleted in MLflow: it must not hold up the others
                        logger.warning("%s; %s is left as it is", error, outbox.folder)
                        self._outboxes.remove(outbox)
                    else:
                        trouble = error
        if trouble:
            raise trouble
        return count

    def take_over(self, folders: Sequence[Path]) -> None:
        """Sends what earlier stages and pipeline runs could not send from these folders."""
        for folder in folders:
            address = Address.load(folder)
            if address and address.store == self.tracking_uri and address.run_id != self.run_id:
                outbox = Outbox(folder, address)
                if outbox.waiting:
                    logger.info("%s: sending what MLflow has not received yet", folder)
                    self._add(outbox)
                else:
                    outbox.journal.close()

    def _add(self, outbox: Outbox) -> None:
        with self._lock:
            self._outboxes.append(outbox)
        self._sender.wake()

    def start_stage(self, stage: str, folder: Path, *, resumes: bool = False) -> str:
        """Opens the nested run of a stage with its results in `folder`; returns its id, "" if the store is away.

        If the stage `resumes`, its run is that of the interrupted attempt, which moves under this pipeline run.
        """
        with self._lock:
            self._outboxes = [outbox for outbox in self._outboxes if outbox.folder != folder]
        address = Address.load(folder) if resumes else None
        if address is None and resumes:  # a damaged address: a new run gets all that the journal holds
            address = Address(self.tracking_uri, stage)
        if address is None or address.store != self.tracking_uri:
            self._set_aside(folder)
            address = Address(self.tracking_uri, stage)
        before, address.parent_id, address.settled = address.parent_id, self.run_id, False
        outbox = Outbox(folder, address)
        if before not in ("", self.run_id):
            outbox.journal.append({"tags": {PARENT: self.run_id, CONTINUED: before}})
        try:
            outbox.settle()
        except TrackingError as error:
            logger.warning("%s; %s logs into %s, to be sent when it answers again", error, stage, folder)
        outbox.journal.close()
        return address.run_id if address.settled else ""

    def _set_aside(self, folder: Path) -> None:
        """Removes the journal of an earlier attempt from the folder, and sends what of it was not sent."""
        before = Address.load(folder)
        if before and (folder / JOURNAL).exists():
            outbox = Outbox(folder, before)
            outbox.journal.close()
            if outbox.waiting:
                aside = self._own.folder.parent / f"{before.stage}-{now_ms()}"
                aside.mkdir(parents=True)
                for name in (JOURNAL, ADDRESS):
                    shutil.move(folder / name, aside / name)
                self.take_over([aside])
                return
        for name in (JOURNAL, ADDRESS):
            (folder / name).unlink(missing_ok=True)

    def finish_stage(self, folder: Path, status: str) -> None:
        """Ends the run of the stage with its results in `folder`. status: FINISHED, FAILED or KILLED."""
        address = Address.load(folder)
        if address is not None:
            outbox = Outbox(folder, address)
            outbox.journal.append({"end": status, "time": now_ms()})
            self._add(outbox)

    def copy_cached(self, stage: str, metrics: Mapping[str, float], folder: Path) -> None:
        """Logs the metrics of a stage whose cached result is used on this pipeline run, and sets a tag that says so.

        A second tag names the run that made the result in `folder`, if it is in the same store. The tags that this run
        has set on its pipeline's run are set here, too.
        """
        self._own.journal.append_metrics(on_parent(stage, metrics), 0)
        tags, made = {**tags_of_the_pipeline(folder), f"cached.{stage}": "true"}, Address.load(folder)
        if made and made.run_id and made.store == self.tracking_uri:
            tags[f"{CACHED_RUN}{stage}"] = made.run_id
        self._own.journal.append({"tags": tags})
        self._sender.wake()

    def log_artifact(self, path: Path) -> None:
        """Copies a file into the artifacts of this pipeline run; the file must stay where it is until then."""
        self._own.journal.append({"artifact": str(path), "folder": None})
        self._sender.wake()

    def finish(self, status: str) -> None:
        """Ends the pipeline run, and waits a bounded time until everything is sent. status as in `finish_stage`."""
        self._own.journal.append({"end": status, "time": now_ms()})
        self._sender.close()
        for outbox in self._outboxes:
            outbox.journal.close()
            if outbox.folder.parent == self._own.folder.parent and not outbox.waiting:  # no stage's folder
                shutil.rmtree(outbox.folder)


def open_pipeline_run(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    results_dir: Path,
) -> PipelineRun:
    """Opens the parent run, with the flattened spec as its parameters; TrackingError if the store cannot be reached.

    What other runs of `results_dir` could not send is sent now, in the background.
    """
    key = uuid.uuid4().hex
    own = Outbox(results_dir / "runs" / "mlflow" / key, Address(tracking_uri, key=key, experiment=experiment))
    process = {HOST: socket.gethostname(), PROCESS: str(os.getpid())}
    about = {"mlflow.runName": run_name, "mlflow.user": getpass.getuser(), "mlflow.source.type": "LOCAL"}
    own.journal.append({"killed_runs_of": socket.gethostname()})
    own.journal.append({"tags": {**about, **tags, **process}})
    own.journal.append({"experiment_page": True})
    own.journal.append({"params": as_params(params)})
    try:
        own.send()
        with reaching(tracking_uri):
            place = connect(tracking_uri).get_run(own.address.run_id).info.experiment_id
    except ReidError:
        own.journal.close()
        shutil.rmtree(own.folder)
        raise
    pipeline = PipelineRun(own, place)
    pipeline.take_over(sorted(path.parent for path in results_dir.rglob(ADDRESS)))
    return pipeline


def figures_of_kfp_run(tracking_uri: str, kfp_run_id: str) -> dict[str, float]:
    """Returns the metrics on the parent run of a run of Kubeflow Pipelines; none if MLflow knows no such run."""
    client = connect(tracking_uri)
    with reaching(tracking_uri):
        parents = parents_of_kfp_run(client, kfp_run_id)
    return dict(parents[0].data.metrics) if parents else {}


def end_runs_of_kfp_run(tracking_uri: str, kfp_run_id: str, status: str) -> int:
    """Ends what MLflow still shows as running of a run of Kubeflow Pipelines that is over; returns how many runs.

    `status` is FINISHED, FAILED or KILLED, as the run of Kubeflow Pipelines ended. A pod that was killed could not end
    its MLflow runs, and a stage that never started leaves a parent that looks finished. Runs that ended keep their
    status and their time, except such a parent. Raises TrackingError if the store does not answer.
    """
    client = connect(tracking_uri)
    with reaching(tracking_uri):
        parents = parents_of_kfp_run(client, kfp_run_id)
        nested = [run for parent in parents for run in children(client, parent)]
        wrong = [run for run in nested if run.info.status == "RUNNING"]
        wrong += [run for run in parents if run.info.status in {"RUNNING", "FINISHED"} - {status}]
        for run in wrong:
            client.set_terminated(run.info.run_id, status)
    return len(wrong)
