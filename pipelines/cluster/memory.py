"""Memory of each stage on a cluster: what its pod books (the request) and what it may use at most (the limit).

Kubernetes places a pod on a node by its requests alone, and kills a process that exceeds the limit. A limit above the
memory of the node does no harm, so the limits are generous, and the requests are near what a stage really uses.
"""

import re
from collections.abc import Mapping

PerStage = str | Mapping[str, str]
"""One quantity of Kubernetes ("16G", "512Mi") for every stage, or stage -> quantity."""
GPU_RANKS = "train"
"""The stage whose memory grows with its GPUs: it has a process for each."""

LIMIT_GB, LIMIT_GB_FOR_EACH_FURTHER_GPU = 16, 8
REQUEST_GB = {"train": 6, "evaluate": 3, "inference": 3, "export": 3, "gen_trt_engine": 3}
"""Requests in GB, above the peaks that were measured on CPUs: see the table in docs/cluster.md."""
OTHER_REQUEST_GB = 1
REQUEST_GB_FOR_EACH_FURTHER_GPU = 3
"""A process with PyTorch and a CUDA context."""

UNITS: dict[str, int] = {"": 1, "Ki": 1024, **{letter: 1000**power for power, letter in enumerate("MGTP", 2)}}
UNITS |= {f"{letter}i": 1024**power for power, letter in enumerate("MGTP", 2)}
QUANTITY = re.compile("([0-9]+)(Ki|[MGTP]i?)?")
"""Memory as both KFP's compiler and Kubernetes read it."""


def in_bytes(quantity: str) -> int:
    """The bytes of a quantity of memory. Raises ValueError if it is not written as one."""
    found = QUANTITY.fullmatch(quantity)
    if not found:
        raise ValueError(quantity)
    return int(found[1]) * UNITS[found[2] or ""]


def memory_limit(stage: str, *, chosen: PerStage, gpus: int) -> str:
    """The memory that a stage may use at most; `chosen` is the cluster's own choice, gpus those of train."""
    further = max(0, gpus - 1) if stage == GPU_RANKS else 0
    return _chosen(chosen, stage) or f"{LIMIT_GB + LIMIT_GB_FOR_EACH_FURTHER_GPU * further}G"


def memory_request(stage: str, *, chosen: PerStage, limit: str, gpus: int) -> str:
    """The memory that a stage books; a default that exceeds the limit is the limit."""
    further = max(0, gpus - 1) if stage == GPU_RANKS else 0
    booked = REQUEST_GB.get(stage, OTHER_REQUEST_GB) + REQUEST_GB_FOR_EACH_FURTHER_GPU * further
    default = f"{booked}G" if in_bytes(limit) >= booked * UNITS["G"] else limit
    return _chosen(chosen, stage) or default


def _chosen(chosen: PerStage, stage: str) -> str:
    """The cluster's own choice for a stage; "" if it makes none."""
    return chosen if isinstance(chosen, str) else chosen.get(stage, "")
