"""Where on a cluster a stage works that goes on after a retry: on a volume that outlives its pod.

By the run of Kubeflow Pipelines: a retried step, and a retried run, find what they left; another run does not. A stage
never removes its own folder: the launcher uploads what it delivered only when its process has ended, and where that
fails the step is tried again. The stage of EMPTIES is given those results, the proof that they have arrived.
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
"""Stage -> the one whose folder it removes."""


def work_folder(stage: str) -> Path | None:
    """The stage's folder on the volume; None where there is no volume, no cluster, or the stage only empties it."""
    return None if stage in EMPTIES else _folder_of(stage)


def deliver(work: Path, files: Mapping[str, Path]) -> None:
    """Copies a finished stage's results to where the launcher uploads them from."""
    for name, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if (work / name).is_dir():
            shutil.copytree(work / name, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(work / name, target)


def empty_for(stage: str) -> None:
    """Removes the folder that this stage empties, and its run's where nothing else is in it; told where it cannot.

    What MLflow has not got of that stage is sent first, and where it takes nothing the folder stays.
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
