"""Runs torch's elastic agent: it starts the ranks of this machine, watches them, and ends them as one.

The ranks run in sessions of their own, so Ctrl-C reaches this process only, and the agent passes it on to all of them.
"""

import logging
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any

from reid.distributed.channel import SOCKET, Channel
from reid.distributed.joining import Machine
from reid.errors import RankLost

SHUTDOWN_S = 20
"""After SIGTERM the ranks have so long to finish a step and write a checkpoint; Kubernetes kills after 30 s."""
MEETING_S = 3600
"""How long the first machine may check and decode the data while the others wait for it."""
POLL_S = 0.1
HANDLED = (signal.SIGTERM, signal.SIGINT)
TORCHS = "torch.distributed"


def run_agent(
    request: Mapping[str, Any],
    heard: Mapping[str, Callable[..., None]],
    machine: Machine | None,
    local: int,
    *,
    meeting_s: int = MEETING_S,
) -> Any:
    """Runs the elastic agent with the ranks of this machine until all have ended; returns rank 0's result."""
    channel = Channel({**request, "log_level": logging.getLogger("reid").getEffectiveLevel()}, heard)
    stopped, failed = False, None
    try:
        with _environment_kept(), _signals_kept(), _quiet(), _second_interrupt(channel.end_ranks):
            os.environ[SOCKET] = channel.path
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")  # a lost store is said once, in our words
            failed, stopped = _agent(machine, local, meeting_s=meeting_s)
    finally:
        channel.close()
    if channel.fault:
        raise channel.fault
    errors = [error for error in channel.errors if not (stopped and isinstance(error, RankLost))]  # they were stopped
    if errors:
        raise errors[0]
    if stopped or channel.interrupted:
        raise KeyboardInterrupt
    if channel.has_result or not (failed or channel.lost or channel.failures):
        return channel.result
    raise RankLost(_describe_end(channel, failed or {}, size=local * (machine.count if machine else 1)))


def _agent(machine: Machine | None, local: int, *, meeting_s: int) -> tuple[dict[int, int] | None, bool]:
    """Runs torch's agent. Returns the exit status of each rank that ended badly, and whether a signal stopped it."""
    from torch.distributed.elastic.multiprocessing import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher import elastic_launch  # type: ignore[attr-defined]

    config = _config(machine, local, meeting_s=meeting_s)
    met = _meet(machine, meeting_s=meeting_s) if machine and machine.count > 1 else None
    launch = elastic_launch(config, sys.executable)
    try:
        launch("-m", "reid.distributed.worker")
    except SignalException:
        return None, True
    except ChildFailedError as error:
        return {rank: failure.exitcode for rank, failure in error.failures.items()}, False
    finally:
        del met  # the agent of machine 0 uses its server
    return None, False


def _meet(machine: Machine, *, meeting_s: int) -> Any:
    """Returns, when the agents of all machines are there, a store on the server of machine 0.

    A thread waits for it, because torch's own waiting lets no signal through, not even Ctrl-C.
    """
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    found: list[Any] = []

    def meet() -> None:
        try:
            first, limit = machine.number == 0, timedelta(seconds=meeting_s)
            found.append(TCPStore(machine.address, machine.port, machine.count, first, limit, multi_tenant=True))
        except Exception as error:  # nobody came in time, or the port is taken
            found.append(error)

    waiting = threading.Thread(target=meet, name="other machines", daemon=True)
    waiting.start()
    while waiting.is_alive():
        waiting.join(POLL_S)
    if isinstance(found[0], Exception):
        why = str(found[0]).splitlines()[0]
        raise RankLost(
            f"the {machine.count} machines cannot meet at {machine.address}:{machine.port}\n"
            f"  found: {why}\n"
            "  want:  the same task on each machine, and an address and a port of machine 0 that all can reach"
        )
    return found[0]


def _config(machine: Machine | None, local: int, *, meeting_s: int) -> Any:
    """How the agent starts the ranks: alone on this machine, or together with the agents of other machines."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.run import config_from_args, get_args_parser

    options = [f"--nproc-per-node={local}", "--max-restarts=0", f"--log-dir={os.devnull}"]
    options.append(f"--signals-to-handle={','.join(number.name for number in HANDLED)}")
    if machine is None or machine.count == 1:
        options += ["--nnodes=1", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--local-addr=127.0.0.1"]
        options.append(f"--rdzv-id={uuid.uuid4()}")
    else:
        options += [f"--nnodes={machine.count}", f"--node-rank={machine.number}", "--rdzv-backend=static"]
        options += [f"--master-addr={machine.address}", f"--master-port={machine.port}"]
        options.append(f"--rdzv-conf=timeout={meeting_s}")
    threads = os.environ.get("OMP_NUM_THREADS")
    config, _, _ = config_from_args(get_args_parser().parse_args([*options, "-m", "reid.distributed.worker"]))
    if threads is None:  # torchrun would give each rank one thread; share_the_cpu gives it its share
        os.environ.pop("OMP_NUM_THREADS", None)
    config.logs_specs = DefaultLogsSpecs(log_dir=os.devnull)
    if hasattr(config, "shutdown_timeout"):  # since torch 2.12; before, the agent waits 30 s
        config.shutdown_timeout = SHUTDOWN_S
    return config


def _describe_end(channel: Channel, statuses: Mapping[int, int], *, size: int) -> str:
    """Which rank ended the others, and how."""
    if channel.failures and not channel.lost:
        rank, text = next(iter(channel.failures.items()))
        return f"rank {rank} of {size} failed: {text}; its last messages, if any, are above"
    rank = channel.lost[0] if channel.lost else next(iter(statuses), 0)
    status = statuses.get(rank, 1)
    how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
    return f"rank {rank} of {size} {how}; its last messages, if any, are above"


@contextmanager
def _environment_kept() -> Iterator[None]:
    """The environment is afterwards what it was before."""
    before = dict(os.environ)
    try:
        yield
    finally:
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """The handlers of signals, which the agent replaces, are afterwards what they were before."""
    if threading.current_thread() is not threading.main_thread():  # the agent then leaves them alone
        yield
        return
    before = {number: signal.getsignal(number) for number in HANDLED}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _second_interrupt(end: Callable[[], None]) -> Iterator[None]:
    """Calls `end` on a second Ctrl-C; torch's agent would begin to wait for the ranks anew, as after the first one."""
    from torch.distributed.elastic.multiprocessing import api

    first, signals = api._terminate_process_handler, list[int]()

    def handle(signum: int, frame: FrameType | None) -> None:
        signals.append(signum)
        if len(signals) == 1:
            first(signum, frame)
        elif signum == signal.SIGINT:
            end()

    api._terminate_process_handler = handle
    try:
        yield
    finally:
        api._terminate_process_handler = first


@contextmanager
def _quiet() -> Iterator[None]:
    """Silences torch's agent: what ended the ranks is said once, in our words."""
    import torch.distributed.launcher
    import torch.distributed.run  # noqa: F401

    logging.getLogger(TORCHS)  # the loggers of what is imported later take its level
    every = logging.root.manager.loggerDict
    known = [one for name, one in every.items() if name.startswith(TORCHS) and isinstance(one, logging.Logger)]
    before = {one: one.level for one in known}
    for one in known:
        one.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for one, level in before.items():
            one.setLevel(level)
