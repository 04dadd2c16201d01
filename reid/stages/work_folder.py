"""The folder in which a stage on a cluster works if it can resume: on a volume that outlives its pod.

Its name has the id of the run of Kubeflow Pipelines, so that a retried step, and a retried run, find what they left,
and another run does not. A stage never removes its own folder: the launcher uploads the results only after the process
has ended, and if that fails the step is tried again. A later stage (see EMPTIES), whose inputs are those results,
removes it, since they have arrived then.
"""

import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reid.tracking.journal import Address
from reid.tracking.outbox import Outbox
from reid.tracking.stage_run import StageRun
from reid.tracking.store import load_mlflow

logger = logging.getLogger(__name__)

EMPTIES = {"export": "train"}
"""Stage -> the stage whose folder it removes."""


def work_folder(stage: str) -> Path | None:
    """The stage's folder on the volume; None without a volume or a cluster, and for a stage that only removes one."""
    return None if stage in EMPTIES else _folder_of(stage)


def deliver(work: Path, files: Mapping[str, Path]) -> None:
    """Copies a finished stage's results to the files that the launcher uploads."""
    for name, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if (work / name).is_dir():
            shutil.copytree(work / name, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(work / name, target)


def empty_for(stage: str) -> None:
    """Removes the folder that this stage has to remove, and the run's folder if it is empty then; logs if it cannot.

    What that stage logged and MLflow does not have yet is sent first; if MLflow does not take it, the folder stays.
    """
    folder = _folder_of(EMPTIES[stage]) if stage in EMPTIES else None
    if folder is None or not folder.exists():
        return
    try:
        if _all_logged(folder):
            shutil.rmtree(folder)
            with suppress(OSError):  # another stage's folder is in it
                folder.parent.rmdir()
        else:
            logger.warning("%s stays: MLflow has not got all that was logged there", folder)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", folder, error)


def _all_logged(folder: Path) -> bool:
    address = Address.load(folder)
    if address is None:
        return True
    outbox = Outbox(folder, address)
    load_mlflow(address.store)
    StageRun(outbox).close()
    return not outbox.waiting


def _folder_of(stage: str) -> Path | None:
    root, run_id = os.environ.get("REID_WORK_DIR"), os.environ.get("KFP_RUN_ID")
    return Path(root, run_id, stage) if root and run_id else None
