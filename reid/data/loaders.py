"""The processes that load training batches: how many, and what becomes of the training if one fails.

They pass their batches through shared memory, which containers have little of: 64 MB unless they are given more.
"""

import logging
import multiprocessing.queues
import os
import sys
from pathlib import Path
from typing import Any

from torch import Tensor

from reid.errors import MachineError

logger = logging.getLogger(__name__)

MEMORY_SHARE = 0.5
"""Share of this machine's memory; decoded images that take less stay in the page cache."""
SHARED_MEMORY = Path("/dev/shm")
BATCHES_AHEAD = 2
"""Batches that a process has under way or ready."""
LOST_LOADER = "DataLoader worker (pid"
"""What torch's errors say if a loader process has ended."""
BATCHES_IN_USE = 3
"""Batches that the training holds: the one of this step, the next one, and one on its way to the device."""


def loader_processes(size_bytes: int, *, asked: int) -> int:
    """How many loader processes to use for decoded images of this size: 0 if they fit in half of the memory."""
    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if size_bytes <= MEMORY_SHARE * memory_bytes:
        if asked > 1:
            logger.warning("dataset.num_workers: %d loader processes are not needed: the images fit in memory", asked)
        return 0
    logger.info(
        "decoded images: %.1f GB of %.1f GB of memory: %d loader processes", size_bytes / 1e9, memory_bytes / 1e9, asked
    )
    return asked


def fitting_processes(asked: int, *, batch: tuple[Any, ...], ranks: int) -> int:
    """How many of the loader processes have room for their batches in shared memory; warns if not all have.

    batch: one of this rank's batches; ranks: the ranks that share this machine.
    """
    free = _free_bytes(SHARED_MEMORY)
    if not asked or free is None:
        return asked
    size = _shared_bytes(batch)
    room = free // ranks // size - BATCHES_IN_USE
    fitting = min(asked, max(0, room // BATCHES_AHEAD))
    if fitting < asked:
        wanted = (asked * BATCHES_AHEAD + BATCHES_IN_USE) * size * ranks
        logger.warning(
            "dataset.num_workers: %d of %d loader processes are used, for %s has too little room: %.1f MB are free, "
            "%.1f MB are wanted\n  give the container more, e.g. docker run --shm-size=%dm, or shared_memory in the "
            "cluster file; or choose a smaller dataset.batch_size",
            fitting, asked, SHARED_MEMORY, free / 1e6, wanted / 1e6, -(-wanted // (64 << 20)) * 64,
        )  # fmt: skip
    return fitting


def _free_bytes(folder: Path) -> int | None:
    """The room in the file system of a folder; None if there is no such folder."""
    try:
        room = os.statvfs(folder)
    except OSError:
        return None
    return room.f_bavail * room.f_frsize


def _shared_bytes(batch: object) -> int:
    """The shared memory that a batch takes; each of its tensors has whole pages of its own."""
    if isinstance(batch, Tensor):
        page = os.sysconf("SC_PAGE_SIZE")
        return (batch.nbytes // page + 1) * page
    return sum(map(_shared_bytes, batch)) if isinstance(batch, tuple) else 0


def begin_loader_process(_worker: int) -> None:
    """Prepares a loader process: it is in a group of its own, and it ends if it cannot pass a batch on.

    Ctrl-C and torch's agent signal whole groups. The training then finishes its step, for which it needs its loaders.
    A batch that finds no room in shared memory fails in a thread, and the training would wait for it for ever.
    """
    os.setpgid(0, 0)
    multiprocessing.queues.Queue._on_queue_feeder_error = staticmethod(_end)  # type: ignore[attr-defined]


def _end(error: Exception, _batch: object) -> None:
    """Ends this process with the reason; torch notices within seconds and raises an error in the training's process."""
    sys.stderr.write(f"a loader process of the training images ends: {error}\n")
    sys.stderr.flush()
    os._exit(1)


def loader_lost(reason: str) -> MachineError:
    """The error to raise if a loader process has ended; reason: torch's error."""
    return MachineError(
        "dataset.num_workers: a loader process of the training images has ended\n"
        f"  found: {reason.splitlines()[0]}\n"
        f"  want:  more memory, more of {SHARED_MEMORY} (docker run --shm-size=1g; shared_memory in the cluster file)"
        "\n  or dataset.num_workers=0"
    )
