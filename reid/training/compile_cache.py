"""Where torch.compile keeps its compiled kernels, so that the next training need not compile them again (47 s).

torch names each entry by a hash of the code, its own version and the kind of GPU, writes it under another name and
renames it: any number of ranks, pods and runs may use one folder at once. Entries are read as pickles, so the folder
must be one that only those write who may run code here; a cluster's work volume, which holds the trainings, is.
"""

import logging
import os
from collections.abc import MutableMapping
from pathlib import Path

logger = logging.getLogger(__name__)

VARIABLE = "TORCHINDUCTOR_CACHE_DIR"
"""Triton's kernels are kept in a folder within it."""
FOLDER = "compiled"


def keep_compiled_code(environment: MutableMapping[str, str] = os.environ) -> None:
    """Has torch.compile keep its results on the cluster's work volume, beside the folders of the runs.

    Nothing changes without such a volume, or if the environment names a folder already.
    """
    volume = environment.get("REID_WORK_DIR")
    if not volume or environment.get(VARIABLE):
        return
    folder = Path(volume, FOLDER)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError("it may not be written")
    except OSError as error:
        logger.warning("%s: %s; the next training compiles again", folder, error.strerror or error)
        return
    environment[VARIABLE] = str(folder)
