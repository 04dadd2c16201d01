"""The MLflow run of a pipeline that a runner of ours holds on this machine, and the nested runs of its stages.

One pipeline run is one parent run; each stage that really ran is one nested run, also where it was interrupted and went
on. Nothing here waits for a server that goes away in the middle: what is to be logged goes through outboxes.
"""

import getpass
import logging
import os
import shutil
import socket
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.errors import ReidError, TrackingError
from reid.files.processes import is_alive
from reid.tracking.journal import ADDRESS, JOURNAL, Address, Sender, now_ms
from reid.tracking.outbox import Outbox
from reid.tracking.store import (
    KFP_RUN,
    PARENT,
    as_params,
    connect,
    experiment_id,
    is_refusal,
    log_params,
    on_parent,
    reaching,
    settle,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


class PipelineRun:
    """The parent run of one pipeline run, held by whoever runs the pipeline on this machine."""

    def __init__(self, client: "MlflowClient", address: Address, experiment: str, folder: Path) -> None:
        self._client, self.tracking_uri, self.run_id = client, address.store, address.run_id
        self.experiment_id = experiment
        self._own = Outbox(folder, address)
        self._boxes = [self._own]
        self._lock = threading.Lock()
        self._sender = Sender(self._send, waiting=self._waiting, kept_in=folder.parent)

    def _waiting(self) -> bool:
        return any(box.waiting for box in self._boxes)

    def _send(self) -> int:
        count, trouble = 0, None
        with self._lock:
            for box in list(self._boxes):
                try:
                    count += box.send() if box.waiting else 0
                except ReidError as error:
                    if is_refusal(error):  # its run is gone there: it must not hold up the others
                        logger.warning("%s; %s is left as it is", error, box.folder)
                        self._boxes.remove(box)
                    else:
                        trouble = error
        if trouble:
            raise trouble
        return count

    def take_over(self, folders: Sequence[Path]) -> None:
        """Sends what earlier stages and runs could not send."""
        for folder in folders:
            address = Address.load(folder)
            if address and address.store == self.tracking_uri and address.run_id != self.run_id:
                box = Outbox(folder, address)
                if box.waiting:
                    logger.info("%s: sending what MLflow has not got yet", folder)
                    self._add(box)
                else:
                    box.journal.close()

    def _add(self, box: Outbox) -> None:
        with self._lock:
            self._boxes.append(box)
        self._sender.wake()

    def start_stage(self, stage: str, folder: Path, *, goes_on: bool = False) -> str:
        """Opens the nested run of a stage whose results lie in `folder`; its id, "" where the store does not answer.

        An interrupted stage that `goes_on` there goes on in its run of then, which moves under this pipeline run.
        """
        with self._lock:
            self._boxes = [box for box in self._boxes if box.folder != folder]
        address = Address.load(folder) if goes_on else None
        if address is None or address.store != self.tracking_uri:
            self._set_aside(folder)
            address = Address(self.tracking_uri, stage)
        address.parent_id, address.settled = self.run_id, False
        try:
            with reaching(self.tracking_uri):
                settle(self._client, address)
        except TrackingError as error:
            logger.warning("%s; %s logs into %s, to be sent when it answers again", error, stage, folder)
        address.save(folder)
        return address.run_id if address.settled else ""

    def _set_aside(self, folder: Path) -> None:
        """Takes the journal of an earlier attempt away; to be sent, where it was not."""
        before = Address.load(folder)
        if before and (folder / JOURNAL).exists():
            box = Outbox(folder, before)
            if box.waiting:
                aside = self._own.folder.parent / f"{before.stage}-{now_ms()}"
                aside.mkdir(parents=True)
                for name in (JOURNAL, ADDRESS):
                    shutil.move(folder / name, aside / name)
                self.take_over([aside])
                return
        for name in (JOURNAL, ADDRESS):
            (folder / name).unlink(missing_ok=True)

    def finish_stage(self, folder: Path, status: str) -> None:
        """The stage with its results in `folder` ended. status: FINISHED, FAILED or KILLED."""
        address = Address.load(folder)
        if address is not None:
            box = Outbox(folder, address)
            box.journal.append({"end": status, "time": now_ms()})
            self._add(box)

    def copy_cached(self, stage: str, metrics: Mapping[str, float]) -> None:
        """Puts the figures of a stage that was not run again on this pipeline run, and says so in a tag."""
        self._own.journal.append_metrics(on_parent(stage, metrics), 0)
        self._own.journal.append({"tags": {f"cached.{stage}": "true"}})
        self._sender.wake()

    def finish(self, status: str) -> None:
        """Everything is over. status: FINISHED, FAILED or KILLED."""
        self._own.journal.append({"end": status, "time": now_ms()})
        self._sender.close()
        for box in self._boxes:
            box.journal.close()
            if box.folder.parent == self._own.folder.parent and not box.waiting:  # ours, not a stage's
                shutil.rmtree(box.folder)


def open_pipeline_run(
    *,
    tracking_uri: str,
    experiment: str,
    run_name: str,
    tags: Mapping[str, str],
    params: Mapping[str, Any],
    results_dir: Path,
) -> PipelineRun:
    """Opens the parent run, the flattened spec as its parameters; TrackingError where the store cannot be reached.

    What other runs of `results_dir` could not send is sent now, in the background.
    """
    client = connect(tracking_uri)
    with reaching(tracking_uri):
        place = experiment_id(client, tracking_uri, experiment)
        _close_orphans(client, place)
        ours = {
            "reid.host": socket.gethostname(),
            "reid.process": str(os.getpid()),
            "mlflow.user": getpass.getuser(),
            "mlflow.source.type": "LOCAL",
        }
        run_id = client.create_run(place, run_name=run_name, tags={**tags, **ours}).info.run_id
        log_params(client, run_id, as_params(params))
    address = Address(tracking_uri, run_id=run_id, settled=True)
    pipeline = PipelineRun(client, address, place, results_dir / "runs" / "mlflow" / run_id)
    pipeline.take_over(sorted(path.parent for path in results_dir.rglob(ADDRESS)))
    return pipeline


def figures_of_kfp_run(tracking_uri: str, kfp_run_id: str) -> dict[str, float]:
    """The figures on the parent run of a run of Kubeflow Pipelines; none where MLflow knows no such run."""
    client = connect(tracking_uri)
    with reaching(tracking_uri):
        places = [found.experiment_id for found in client.search_experiments()]
        runs = client.search_runs(places, f"tags.`{KFP_RUN}` = '{kfp_run_id}'")
    parents = [run for run in runs if PARENT not in run.data.tags]
    return dict(parents[0].data.metrics) if parents else {}


def _close_orphans(client: "MlflowClient", experiment: str) -> None:
    """Runs of a process of this machine that is gone (kill -9) would be shown as running for ever."""
    running = client.search_runs(
        [experiment], f"attributes.status = 'RUNNING' and tags.`reid.host` = '{socket.gethostname()}'"
    )
    for run in running:
        process = int(run.data.tags.get("reid.process", "0"))
        if process and process != os.getpid() and not is_alive(process):
            for nested in client.search_runs([experiment], f"tags.`{PARENT}` = '{run.info.run_id}'"):
                if nested.info.status == "RUNNING":
                    client.set_terminated(nested.info.run_id, "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")
