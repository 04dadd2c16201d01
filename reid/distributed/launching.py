"""Runs a function on all ranks of a task, whoever starts them.

A task on one device computes in its own process. For several, torch's elastic agent starts the ranks of this machine
and ends them as one; the task's process only listens to them (`channel.py`) and holds what there is once: MLflow's run,
the console, the stage's files. With the variables PET_* of Kubeflow Trainer, the agents of all machines meet: the task
of machine 0 is the one just described, the others only run their agent. If torchrun or srun has started this process,
it is a rank itself, and nobody is started: rank 0 is the task, and the others wait for what it asks of them.
"""

import _thread
import logging
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from reid.distributed.agent import SHUTDOWN_S, run_agent
from reid.distributed.devices import choose_devices, choose_gpus
from reid.distributed.group import INTERRUPTED, Group, function_of, tell_nobody
from reid.distributed.joining import Machine, Place, machine_of, machines_there, place_of
from reid.distributed.ranks import SINGLE_PROCESS
from reid.errors import ReidError, SpecError

logger = logging.getLogger(__name__)

BRIEF_MEETING_S = 30
"""How long the other machines are waited for if there is nothing left to do but to end them."""
HEARD_S = 2.0
"""How long a rank that failed lets rank 0 say why, before its exit makes torchrun end all others."""
T = TypeVar("T")


def run_on_ranks(
    function: str,
    arguments: Mapping[str, Any],
    *,
    local: int,
    heard: Mapping[str, Callable[..., None]] | None = None,
    known: Mapping[str, Any] | None = None,
) -> Any:
    """Calls `function` ("module:name") on all ranks, `local` of them on this machine; returns what rank 0's returned.

    The function gets the arguments, which are plain values (JSON), and two more: `ranks`, to talk to the other ranks,
    and `tell`, which on rank 0 calls a function of `heard` by its name, in this process and perhaps in a thread. If
    rank 0 is this very process, the function also gets what is `known` here, values of any kind.
    A ReidError of any rank is raised here as it is, RankLost if a rank ended otherwise, KeyboardInterrupt if the ranks
    were stopped.
    """
    listeners = heard or {}

    def tell(name: str, /, **values: Any) -> None:
        listeners[name](**values)

    request = {"function": function, "arguments": dict(arguments)}
    if _led:
        _led[0].set_request(request)
        return _led[0].call(request, tell, known=known or {})
    machine = machine_of(os.environ)
    if local == 1 and (machine is None or machine.count == 1):
        return function_of(request)(**arguments, **(known or {}), ranks=SINGLE_PROCESS, tell=tell)
    _met.append(True)
    return run_agent(request, listeners, machine, local)


def as_one_task(lead: Callable[[], T], *, local: Callable[[], int]) -> T | None:
    """Does the task by `lead`, on one process only; the others that the environment names take part, and get None.

    local: gives how many ranks this machine has, as `devices_here` counts them.
    """
    place, machine = place_of(os.environ), machine_of(os.environ)
    if place:
        os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is said once, in our words
        if not place.rank:
            return _lead_ranks(lead)
        _follow()
        return None
    if machine is None or machine.count == 1:
        return lead()
    if machine.number:
        logger.info("machine %d of %d: waiting for %s", machine.number + 1, machine.count, machine.address)
        logging.getLogger("reid").setLevel(logging.WARNING)
        run_agent({}, {}, machine, local())
        return None
    return _lead_machines(lead, machine, local)


def require_machines(section: str, *, num_nodes: int, num_gpus: int) -> None:
    """Raises SpecError if the spec wants several machines and none but this one was started for the task.

    If others were started, as many as there are take part; the log says so if the spec wants another number.
    """
    there = machines_there(os.environ)
    if num_nodes > 1 and not place_of(os.environ) and not machine_of(os.environ):
        raise SpecError(
            f"{section}.num_nodes: {num_nodes} machines are asked for, and this one is alone\n"
            f"  want: {section}.num_nodes=1; or on each of the machines, the first of which is HOST,\n"
            f"  torchrun --nnodes={num_nodes} --nproc-per-node={num_gpus}"
            f" --rdzv-backend=c10d --rdzv-endpoint=HOST:29500 -m reid {section} -e SPEC"
        )
    if num_nodes not in (1, there):
        logger.info("%s.num_nodes: %d, but %d take part, as they were started", section, num_nodes, there)


def devices_here(section: str, *, num_gpus: int, gpu_ids: Sequence[int], cpu_processes: int) -> tuple[str, ...]:
    """The device of each rank of this machine: as many as were started, else as the spec's `section` asks for.

    What was started wins, because a process more or less cannot be had. Raises SpecError if a GPU is not there.
    """
    place, machine = place_of(os.environ), machine_of(os.environ)
    here = place.local_size if place else machine.local_size if machine else None
    if here is None or len(choose_gpus(num_gpus, gpu_ids)) == here:
        return choose_devices(section, num_gpus=num_gpus, gpu_ids=gpu_ids, cpu_processes=here or cpu_processes)
    logger.info("%s: %d processes compute on this machine, as they were started", section, here)
    return choose_devices(section, num_gpus=here, gpu_ids=range(here), cpu_processes=here)


_led: list[Group] = []
"""The ranks that torchrun or srun has started, if this process is rank 0 of them."""
_met: list[bool] = []
"""Whether the machines have met for this task."""


def _lead_ranks(lead: Callable[[], T]) -> T:
    """Does the task as rank 0 of ranks that are there already."""
    ended: list[ReidError] = []

    def end(error: ReidError) -> None:
        ended.append(error)
        _thread.interrupt_main()
        time.sleep(SHUTDOWN_S)  # the main thread may be waiting for a GPU for ever
        logger.error("%s", error)
        os._exit(error.exit_status)

    group = Group(_own_place(), ended=end)
    _led.append(group)
    status = 0
    try:
        return lead()
    except BaseException as error:
        status = _exit_status(error)
        if ended and isinstance(error, KeyboardInterrupt):
            raise ended[0] from None
        if isinstance(error, ReidError):
            group.fail(error)
        raise
    finally:
        _led.clear()
        group.end(status)


def _follow() -> None:
    """Takes part as another rank than 0 until rank 0 has no further request; says nothing but warnings.

    What ends the ranks is said by rank 0; this one only ends with the same exit status.
    """
    logging.getLogger("reid").setLevel(logging.WARNING)

    def end(error: ReidError) -> None:
        group.part()
        os._exit(error.exit_status)

    group = Group(_own_place(), ended=end)
    try:
        while "function" in (request := group.next_request()):
            group.call(request, tell_nobody)
        status = int(request["exit_status"])
    except (ReidError, KeyboardInterrupt) as error:
        if isinstance(error, ReidError):
            time.sleep(HEARD_S)
        status = _exit_status(error)
    group.part()
    if status:
        sys.exit(status)


def _exit_status(error: BaseException) -> int:
    """The exit status of a process that ends with this error."""
    if isinstance(error, ReidError):
        return error.exit_status
    return INTERRUPTED if isinstance(error, KeyboardInterrupt) else 1


def _own_place() -> Place:
    place = place_of(os.environ)
    assert place
    return place


def _lead_machines(lead: Callable[[], T], machine: Machine, local: Callable[[], int]) -> T:
    """Does the task on machine 0; the other machines are ended too if it turns out that they are not needed."""
    _met.clear()
    status = 0
    try:
        return lead()
    except BaseException as error:
        status = _exit_status(error)
        raise
    finally:
        if not _met:
            try:
                run_agent({"exit_status": status}, {}, machine, local(), meeting_s=BRIEF_MEETING_S)
            except Exception as error:
                logger.debug("ending the other machines: %s", error)
