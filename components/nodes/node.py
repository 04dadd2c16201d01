"""Trains on one node of a TrainJob: `python3 -m components.nodes.node REQUEST`, the same command on every node.

Kubeflow Trainer sets PET_NODE_RANK and the other variables of torchrun, by which the nodes find each other. Node 0 logs
to MLflow, as the run of the train stage, and writes model and report; the others only compute. How a node ended stands
in a file, for its pod and its log are soon gone.
"""

import logging
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from components.entry import INTERRUPTED, configure_logging, finite
from components.nodes.files import DATASET, as_end, forget_end, outcome_of, read_request, write_end
from reid.console.plain import show_error
from reid.distributed.launching import as_one_task
from reid.errors import ReidError
from reid.files.locks import in_turn
from reid.files.rights import rights_refused
from reid.spec import Experiment
from reid.spec.form import load_spec_of_form
from reid.stages.train import train
from reid.tracking.environment import take_mlflow_settings
from reid.tracking.stage_run import stage_run

logger = logging.getLogger("components.nodes.node")

NODE_RANK = "PET_NODE_RANK"


def main(arguments: Sequence[str]) -> int:
    """The exit status: 0 done; 2 an error that the user can correct; 130 stopped; 1 worth a new start."""
    request, node = Path(arguments[0]), int(os.environ[NODE_RANK])
    configure_logging()
    take_mlflow_settings(os.environ)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        return _train(request, node)
    except ReidError as error:
        text = f"{error}{rights_refused(error)}"
        show_error(text)
        return _ended(request.parent, node, error.exit_status, text)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        return _ended(request.parent, node, 1, traceback.format_exc())


def _train(request: Path, node: int) -> int:
    work = request.parent
    spec = load_spec_of_form(read_request(request), {}, warn=False)
    if outcome_of(work):  # another node failed after node 0 was done, and Kubernetes starts that one again
        logger.info("the training is finished already")
        return 0
    forget_end(work, node)
    as_one_task(lambda: _lead(spec, work), local=lambda: int(os.environ["PET_NPROC_PER_NODE"]))
    return 0


def _lead(spec: Experiment, work: Path) -> None:
    """The part of node 0: the stage, as in one pod.

    A node 0 that takes the place of a lost one may start before that one has ended, so it waits for the folder.
    """
    with in_turn(work, work="training in it"), stage_run("train", work, experiment=spec.mlflow.experiment) as run:
        outcome = train(spec, dataset=work / DATASET, model=work / "model", report=work / "report", run=run)
        outcome.metrics = finite(outcome.metrics)
        run.log_outcome(outcome.metrics)
    write_end(work, 0, as_end(outcome))


def _ended(work: Path, node: int, status: int, text: str) -> int:
    """Writes an error where the train stage reads it; returns the exit status."""
    try:
        write_end(work, node, {"exit_status": status, "error": text})
    except (OSError, ReidError) as error:
        logger.warning("%s: not written: %s", work, error)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
