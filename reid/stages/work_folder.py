"""The folder on a cluster's volume in which a stage works that resumes after a retry; it outlives the stage's pod.

Each run of Kubeflow Pipelines has its own: a retried step and a retried run find what they left there, another run does
not. A stage never removes its own folder, because the launcher uploads the results only after the stage's process has
ended, and retries the step if the upload fails. The folder is removed by a later stage that is given those results:
then they have arrived. EMPTIES names that stage.
"""

import errno
import logging
import os
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from reid.errors import ArtifactError
from reid.files.rights import may_write, rights
from reid.tracking.stage_run import send_what_is_left

logger = logging.getLogger(__name__)

EMPTIES = {"export": "train"}
"""Stage -> the stage whose folder it removes."""


def work_folder(stage: str) -> Path | None:
    """Returns the stage's folder on the volume; None without a volume or a cluster, or if the stage only empties it."""
    return None if stage in EMPTIES else _folder_of(stage)


def require_writable_volume(work: Path) -> None:
    """Makes the stage's folder. Raises ArtifactError, which says whose it is, if this process may not write there."""
    try:
        work.mkdir(parents=True, exist_ok=True)
        refusal = None if may_write(work) else os.strerror(errno.EACCES)
    except OSError as error:
        refusal = error.strerror or str(error)
    if refusal:
        raise ArtifactError(
            f"{work}: the work volume cannot be written\n  found: {refusal}\n"
            f"  want:  a volume that the stages' user may write\n{rights(work)}"
        )


def deliver(work: Path, files: Mapping[str, Path]) -> None:
    """Copies a finished stage's results to the paths from which the launcher uploads them."""
    for name, target in files.items():
        target.parent.mkdir(parents=True, exist_ok=True)
        if (work / name).is_dir():
            shutil.copytree(work / name, target, dirs_exist_ok=True)
        else:
            shutil.copyfile(work / name, target)


def empty_for(stage: str) -> None:
    """Removes the folder that this stage empties, and the folder of its run if that is empty then.

    What MLflow has not received of that stage is sent first; if MLflow takes nothing, the folder stays. A folder that
    cannot be removed is logged as a warning and fails nothing.
    """
    folder = _folder_of(EMPTIES[stage]) if stage in EMPTIES else None
    if folder is None or not folder.exists():
        return
    try:
        if send_what_is_left(folder):
            shutil.rmtree(folder)
            with suppress(OSError):  # the folder of another stage is in it
                folder.parent.rmdir()
        else:
            logger.warning("%s stays: MLflow has not received all that was logged there", folder)
    except OSError as error:
        logger.warning("%s cannot be removed: %s", folder, error)


def _folder_of(stage: str) -> Path | None:
    root, run_id = os.environ.get("REID_WORK_DIR"), os.environ.get("KFP_RUN_ID")
    return Path(root, run_id, stage) if root and run_id else None
