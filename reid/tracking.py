"""MLflow runs: the run of a pipeline, and the nested runs of its stages (the model registry is in `registry.py`).

One pipeline run is one parent run; each stage that really ran is one nested run, also where it was retried or resumed.
The environment is the contract, and it is the one of Kubeflow Pipelines' own MLflow plugin: MLFLOW_TRACKING_URI,
MLFLOW_EXPERIMENT_ID and MLFLOW_RUN_ID name where a stage logs. On a cluster without the plugin KFP_RUN_ID, the run of
Kubeflow Pipelines, is enough: the stages find or make both runs. Everything goes through an outbox: a server that is
gone in the middle stops nothing.
"""

import getpass
import logging
import os
import shutil
import socket
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reid.errors import ReidError, TrackingError
from reid.mlflow_store import (
    KFP_RUN,
    PARENT,
    as_params,
    bring,
    connect,
    dataset_record,
    experiment_id,
    is_refusal,
    load_mlflow,
    log_params,
    on_parent,
    reaching,
    settle,
)
from reid.outbox import ADDRESS, JOURNAL, Address, Journal, Record, Sender, now_ms

if TYPE_CHECKING:
    from mlflow import MlflowClient

logger = logging.getLogger(__name__)


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
                        bring(client, self.address, target, records)
                    self.address.sent[target] = end
                    self.address.save(self.folder)
                    count += len(records)
            return count


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
        done = self._sender.close()
        for box in self._boxes:
            box.journal.close()
        if done:
            shutil.rmtree(self._own.folder)


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
        if process and process != os.getpid() and not _alive(process):
            for nested in client.search_runs([experiment], f"tags.`{PARENT}` = '{run.info.run_id}'"):
                if nested.info.status == "RUNNING":
                    client.set_terminated(nested.info.run_id, "KILLED")
            client.set_terminated(run.info.run_id, "KILLED")


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


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
        self._put(dataset_record(name, fingerprint=fingerprint, source=source))

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
        return known
    if not run_id and not kfp_run_id:
        logger.info("MLflow: MLFLOW_RUN_ID is not set; nothing is logged")
        return None
    return Address(store, stage, run_id, kfp_run_id=kfp_run_id, experiment=experiment)
