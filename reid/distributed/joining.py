"""What the environment says of processes and machines that somebody else has started.

torchrun and Slurm's srun start every process themselves: then this process is one rank of several, its `Place`.
Kubeflow Trainer starts one process on each machine and describes the machines in variables PET_*: the process then
starts the ranks of its own machine and meets those of the others, its `Machine`.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from reid.errors import SpecError

SLURM_PORTS = 15000
"""Slurm gives no port: it is this number plus the last four digits of the job's number, the same on each machine."""
LAST_STEP = 4_000_000_000
"""Slurm's own steps (the batch script, an allocation) have numbers above; nobody else was started with those."""


@dataclass(frozen=True)
class Place:
    """The place of this process among the ranks that somebody else has started."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    """How many ranks this machine has; each has as many."""
    address: str
    """Where rank 0 listens, so that all find each other."""
    port: int


@dataclass(frozen=True)
class Machine:
    """This machine among those that train together; its ranks have yet to be started."""

    number: int
    """From 0; the ranks of machine 0 come first."""
    count: int
    local_size: int | None
    """How many ranks to start here; None leaves it to the spec."""
    address: str
    port: int


def place_of(environment: Mapping[str, str]) -> Place | None:
    """The place of this process if torchrun or Slurm has started several; None if it is alone or has to start them.

    Raises SpecError if the machines do not have equally many ranks.
    """
    if "LOCAL_RANK" in environment and {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        place = _from_torchrun(environment)
    elif "PET_NNODES" in environment:
        return None
    elif {"RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"} <= environment.keys():
        place = _from_torchrun(environment)
    elif _is_slurm_task(environment):
        place = _from_slurm(environment)
    else:
        return None
    if place.size % place.local_size:
        raise SpecError(
            f"the environment: {place.size} processes are started, {place.local_size} of them on this machine\n"
            "  want: equally many on each machine"
        )
    return place if place.size > 1 else None


def machine_of(environment: Mapping[str, str]) -> Machine | None:
    """This machine as the variables PET_* describe it; None if there are none, or no rank is left to start."""
    if "PET_NNODES" not in environment:
        return None
    count = environment["PET_NNODES"].rpartition(":")[2]
    local = environment.get("PET_NPROC_PER_NODE", "")
    found = {name: environment.get(f"PET_{name}", "") for name in ("NODE_RANK", "MASTER_ADDR", "MASTER_PORT")}
    if not count.isdigit() or (int(count) > 1 and not (found["NODE_RANK"].isdigit() and found["MASTER_ADDR"])):
        raise SpecError(
            f"PET_NNODES is {environment['PET_NNODES']}, "
            + ", ".join(f"PET_{name} is {value or 'not set'}" for name, value in found.items())
            + "\n  want: the number of machines, this machine's number from 0, and the address of machine 0"
        )
    return Machine(
        number=int(found["NODE_RANK"] or 0),
        count=int(count),
        local_size=int(local) if local.isdigit() else None,  # auto, gpu and cpu leave it to the spec
        address=found["MASTER_ADDR"] or "127.0.0.1",
        port=int(found["MASTER_PORT"] or 29500),
    )


def machines_there(environment: Mapping[str, str]) -> int:
    """How many machines take part in this task: 1 unless the environment says otherwise."""
    if place := place_of(environment):
        return place.size // place.local_size
    machine = machine_of(environment)
    return machine.count if machine else 1


def _from_torchrun(environment: Mapping[str, str]) -> Place:
    return Place(
        rank=int(environment["RANK"]),
        size=int(environment["WORLD_SIZE"]),
        local_rank=int(environment.get("LOCAL_RANK", "0")),
        local_size=int(environment.get("LOCAL_WORLD_SIZE", "1")),
        address=environment["MASTER_ADDR"],
        port=int(environment["MASTER_PORT"]),
    )


def _is_slurm_task(environment: Mapping[str, str]) -> bool:
    """Whether srun has started this process with others; the script of sbatch itself is alone."""
    step = environment.get("SLURM_STEP_ID", "")
    wanted = {"SLURM_PROCID", "SLURM_LOCALID", "SLURM_NTASKS", "SLURM_NODELIST"}
    return wanted <= environment.keys() and step.isdigit() and int(step) < LAST_STEP


def _from_slurm(environment: Mapping[str, str]) -> Place:
    size, machines = int(environment["SLURM_NTASKS"]), int(environment.get("SLURM_NNODES", "1"))
    job = environment.get("SLURM_JOB_ID", "0")
    local_rank, local_size = int(environment["SLURM_LOCALID"]), -(-size // machines)
    if environment.get("CUDA_VISIBLE_DEVICES", ",").count(",") == 0:  # --gpus-per-task=1: its GPU is the only one
        local_rank, local_size = 0, 1
    return Place(
        rank=int(environment["SLURM_PROCID"]),
        size=size,
        local_rank=local_rank,
        local_size=local_size,
        address=environment.get("MASTER_ADDR", first_host(environment["SLURM_NODELIST"])),
        port=int(environment.get("MASTER_PORT", SLURM_PORTS + int(job[-4:]))),
    )


def first_host(node_list: str) -> str:
    """The first machine of a list as Slurm writes it: gpu[03-05,9],login is gpu03."""
    first = re.match(r"(?P<name>[^,\[]+)(?:\[(?P<number>\d+)[^\]]*\](?P<rest>[^,]*))?", node_list)
    if not first:
        raise SpecError(f"SLURM_NODELIST is {node_list!r}\n  want: machines as Slurm names them, e.g. gpu[01-02]")
    return "".join(part or "" for part in first.groups())
