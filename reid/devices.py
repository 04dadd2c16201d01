"""Which GPUs, or how many processes on the CPU, a task runs on."""

import logging
import os
from collections.abc import Sequence

import torch

from reid.errors import SpecError

logger = logging.getLogger(__name__)


def choose_gpus(num_gpus: int, gpu_ids: Sequence[int]) -> tuple[int, ...]:
    """The GPUs that both fields together ask for: the one with more wins; chosen ids are kept, free ones added."""
    chosen = list(dict.fromkeys(gpu_ids))
    free = (gpu for gpu in range(num_gpus + len(chosen)) if gpu not in chosen)
    while len(chosen) < num_gpus:
        chosen.append(next(free))
    return tuple(sorted(chosen))


def choose_devices(section: str, *, num_gpus: int, gpu_ids: Sequence[int], cpu_processes: int) -> tuple[str, ...]:
    """A device for each rank, as torch names it; `section` of the spec asks for them.

    Without any GPU on this machine: the CPU, for cpu_processes ranks. SpecError where a wanted GPU is not there.
    """
    present = torch.cuda.device_count()
    if not present:
        logger.info("no GPU here: running on the CPU%s", f", {cpu_processes} processes" if cpu_processes > 1 else "")
        return ("cpu",) * cpu_processes
    wanted = choose_gpus(num_gpus, gpu_ids)
    absent = [gpu for gpu in wanted if gpu >= present]
    if absent:
        raise SpecError(
            f"{section}.num_gpus, {section}.gpu_ids: GPUs {list(wanted)} are asked for, "
            f"{len(absent)} of them are not there\n"
            f"  found: {present} (0..{present - 1})\n  want: at most {present}, e.g. {section}.num_gpus={present}"
        )
    return tuple(f"cuda:{gpu}" for gpu in wanted)


def share_the_cpu(devices: Sequence[str]) -> None:
    """Gives this process its part of the CPU, where several ranks compute on it; more threads than cores crawl."""
    if len(devices) > 1 and devices[0] == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))
