"""The train stage of a training on several nodes: submits the TrainJob, follows it, and gives its outcome.

The nodes work in the stage's own folder on the work volume, so this pod only waits. Whatever happens to it, at most one
job of a run works there, for its name is that of the run:

- A pod that is lost leaves the job running; its successor finds the job and follows it.
- A pod that is stopped (a run that is cancelled, a machine that is drained) deletes the job, within the third of a
  second that Argo leaves it. The nodes then have 30 seconds for a last checkpoint.
- If even that fails, the job ends with the time-out of the stage, and goes with the Workflow, which owns it.
"""

import logging
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from components.nodes.cluster import Trainer, Unavailable
from components.nodes.files import USER_ERROR, errors_of, outcome_of, write_request
from components.nodes.following import COMPLETE, End, Follower, end_of, pause
from components.nodes.job import Object, claims, job_name, train_job
from components.nodes.logs import CopiedLog
from components.nodes.settings import Nodes
from reid.errors import PipelineError, ReidError
from reid.spec import Experiment
from reid.stages.outcome import Outcome
from reid.tracking.stop_signal import told_of_sigterm

logger = logging.getLogger(__name__)
Answer = TypeVar("Answer")

MODULE = "components.nodes.node"
"""What runs on each node."""
MANY_WRITERS, MANY_READERS = "ReadWriteMany", "ReadOnlyMany"


def train_on_nodes(
    spec: Experiment, *, text: str, nodes: Nodes, dataset: Path, work: Path, model: Path, report: Path
) -> Outcome:
    """Trains on `nodes` and returns what node 0 gives. It has the ports of the stage `train`, without loading PyTorch.

    `text` is the spec's text; `model` and `report` lie in `work`, where node 0 writes them. Resumes what an earlier
    job of the run left there. Raises the error of the node if one says what the user can correct, and PipelineError if
    the job fails otherwise or cannot be submitted.
    """
    assert {model, report} == {work / "model", work / "report"}
    trainer = Trainer()
    run_id, pod_name = os.environ["KFP_RUN_ID"], os.environ.get("KFP_POD_NAME") or os.uname().nodename
    name = job_name(run_id)
    with told_of_sigterm(lambda: trainer.delete(name)):
        try:
            if not _found(trainer, name, work):
                job = train_job(
                    _own_pod(trainer, pod_name, nodes),
                    name=name,
                    run_id=run_id,
                    nodes=nodes,
                    runtime_kind=trainer.runtime_kind(nodes.runtime),
                    processes=nodes.gpus or spec.train.cpu_processes,
                    command=["python3", "-m", MODULE, str(write_request(work, spec=text, dataset=dataset))],
                )
                _submit(trainer, job)
            return _followed(trainer, name, work)
        except BaseException:
            _delete_at_the_end(trainer, name)
            raise


def _own_pod(trainer: Trainer, name: str, nodes: Nodes) -> Object:
    """This pod. Raises PipelineError if several nodes cannot mount its volumes at once."""
    pod = trainer.pod(name)
    for claim in claims(pod):
        modes = trainer.access_modes(claim)
        if nodes.count > 1 and not {MANY_WRITERS, MANY_READERS} & set(modes):
            raise PipelineError(
                f"PersistentVolumeClaim {claim}: found {', '.join(modes) or 'no access mode'}\n"
                f'  want: {MANY_WRITERS}, for {nodes.count} nodes mount it at once; see "Several nodes" in'
                " docs/kubernetes.md"
            )
    return pod


def _found(trainer: Trainer, name: str, work: Path) -> bool:
    """Whether a job that an earlier pod of this stage began is there to be followed; a failed one is removed."""
    job = _patiently(lambda: trainer.job(name))
    if job is None:
        return False
    ended = end_of(job)
    if not job["metadata"].get("deletionTimestamp"):
        if ended is None or (ended.state == COMPLETE and outcome_of(work)):
            logger.info("TrainJob %s: %s already", name, "it runs" if ended is None else "it has finished")
            return True
        logger.info("TrainJob %s: an earlier attempt failed; a new one resumes from its checkpoints", name)
        trainer.delete(name)
    while _patiently(lambda: trainer.job(name)):
        pause()
    return False


def _patiently(ask: Callable[[], Answer]) -> Answer:
    """The answer, however long the API takes to be there."""
    while True:
        try:
            return ask()
        except Unavailable as error:
            logger.warning("Kubernetes does not answer, asking again: %s", error)
            pause()


def _submit(trainer: Trainer, job: Object) -> None:
    name, asked = job["metadata"]["name"], job["spec"]["trainer"]
    if _patiently(lambda: trainer.create(job)):
        logger.info(
            "TrainJob %s: %d nodes, %d processes each; kubectl --namespace %s get trainjob,pods --selector %s",
            name,
            asked["numNodes"],
            asked["numProcPerNode"],
            trainer.namespace,
            f"jobset.sigs.k8s.io/jobset-name={name}",
        )


def _followed(trainer: Trainer, name: str, work: Path) -> Outcome:
    log = CopiedLog(trainer, sys.stderr)
    log.start()
    ended = Follower(trainer, name, log.follow).to_its_end()
    log.finish()
    outcome = outcome_of(work)
    if ended.state == COMPLETE and outcome:
        return outcome
    raise _failure(name, ended, work, log.last_lines)


def _failure(name: str, ended: End, work: Path, last_lines: list[str]) -> ReidError:
    """The first error of a node that the user can correct, or what is known of the end."""
    errors = errors_of(work)
    for status, text in errors.values():
        if status == USER_ERROR:
            return ReidError(text)
    told = "\n".join(f"  node {node}: {text}" for node, (_, text) in errors.items())
    quoted = "\n".join(f"  | {line}" for line in last_lines)
    said = told or (f"  the last lines of node 0:\n{quoted}" if quoted else "  none of its nodes wrote anything")
    state = f"{ended.state}: {ended.why}" if ended.state else ended.why
    return PipelineError(f"TrainJob {name}: {state}\n{said}\n  the checkpoints stay: a retried run resumes from them")


def _delete_at_the_end(trainer: Trainer, name: str) -> None:
    """Ends a job that nobody follows any more; one that has ended by itself stays to be looked at."""
    try:
        job = trainer.job(name)
        if job and end_of(job) is None:
            trainer.delete(name)
    except (ReidError, Unavailable) as error:
        logger.warning("TrainJob %s stays: %s; kubectl delete trainjob %s", name, error, name)
