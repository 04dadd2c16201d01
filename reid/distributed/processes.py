"""Starts the processes (ranks) of a task: one for each GPU, or several that share the CPU.

Rank 0 is the task's own process. It starts the others, sends each the name of a function ("module:function") and its
arguments as JSON, and raises their errors as its own. The others end with rank 0, however it ends: their standard input
is a pipe from it, and when the pipe closes they exit.
"""

import importlib
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from reid import errors
from reid.distributed.ranks import SINGLE_PROCESS, ProcessGroup, Ranks
from reid.errors import ReidError, TrainingError

logger = logging.getLogger(__name__)

END_S = 60.0
"""How long rank 0 waits for the others after its own work is done."""
STUCK_S = 30.0
"""After a rank was lost, how long rank 0 has to notice; if it waits for the lost rank on a GPU, it never does."""
POLL_S = 0.1


@contextmanager
def started(size: int, function: str, arguments: dict[str, Any]) -> Iterator[Ranks]:
    """Makes this process rank 0 of `size`; every other rank calls `function` ("module:name") with the arguments.

    With one rank nothing is started. A ReidError of another rank is raised here as it is; TrainingError is raised if a
    rank ended otherwise, for instance killed because memory ran out.
    """
    if size == 1:
        yield SINGLE_PROCESS
        return
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    before = dict(os.environ)
    store = TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False)
    os.environ.update(_environment(size, port=store.port))
    others = _OtherRanks(size, json.dumps({"function": function, "arguments": arguments}))
    try:
        try:
            others.await_arrival(store)
            _join(store)
            yield ProcessGroup()
            others.wait()
        except Exception as error:
            reason = others.reason()
            if reason is None:
                raise
            raise reason from error
    finally:
        others.end()
        _leave()
        for name in set(os.environ) - set(before):
            del os.environ[name]
        os.environ.update(before)


class _OtherRanks:
    """The processes of rank 1 and above. Their standard input is a pipe that stays open as long as rank 0 lives."""

    def __init__(self, size: int, request: str) -> None:
        self._over = threading.Event()
        self._lost: int | None = None
        self._processes = []
        for rank in range(1, size):
            process = subprocess.Popen(
                [sys.executable, "-m", "reid.distributed.processes"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env=os.environ | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                text=True,
            )
            assert process.stdin is not None
            process.stdin.write(request + "\n")
            process.stdin.flush()
            self._processes.append(process)
        threading.Thread(target=self._watch, daemon=True).start()

    def await_arrival(self, store: Any) -> None:
        """Waits until all ranks are ready to talk; torch itself would wait half an hour for a lost one."""
        here = [f"here/{rank}" for rank in range(1, len(self._processes) + 1)]
        while not store.check(here):
            if self._lost is not None:
                raise TrainingError(self._describe_end(self._lost))
            time.sleep(POLL_S)

    def wait(self) -> None:
        """Waits until all have ended well."""
        give_up_at = time.monotonic() + END_S
        while self._lost is None and time.monotonic() < give_up_at:
            if all(process.poll() == 0 for process in self._processes):
                return
            time.sleep(POLL_S)
        late = [str(rank) for rank, process in enumerate(self._processes, start=1) if process.poll() is None]
        raise TrainingError(
            f"rank {', '.join(late)} of {len(self._processes) + 1} has not ended, {END_S:g} s after rank 0 was done\n"
            "  want:  all ranks to end together; what was written before is kept, run the task again"
        )

    def reason(self) -> ReidError | None:
        """The error of a rank that ended early, if one did: what rank 0 raised then is only the consequence."""
        deadline = time.monotonic() + 1.0
        while self._lost is None and time.monotonic() < deadline:
            time.sleep(POLL_S)
        if self._lost is None:
            return None
        process = self._processes[self._lost]
        assert process.stdout is not None
        lines = process.stdout.read().strip().splitlines()
        if lines and lines[-1].startswith("{"):
            error = json.loads(lines[-1])
            kind: type[ReidError] = getattr(errors, error["kind"])
            return kind(error["text"])
        return TrainingError(self._describe_end(self._lost))

    def end(self) -> None:
        """Ends the ranks that still run."""
        self._over.set()
        for process in self._processes:
            assert process.stdin is not None
            process.stdin.close()  # the rank exits then
        for process in self._processes:
            try:
                process.wait(timeout=5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            assert process.stdout is not None
            process.stdout.close()

    def _watch(self) -> None:
        while self._lost is None:
            if self._over.wait(POLL_S):
                return
            bad = [number for number, process in enumerate(self._processes) if process.poll() not in (None, 0)]
            self._lost = bad[0] if bad else None
        if not self._over.wait(STUCK_S):
            logger.error("%s; rank 0 cannot continue without it and ends too", self._describe_end(self._lost))
            os._exit(1)

    def _describe_end(self, number: int) -> str:
        status = self._processes[number].returncode
        how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        return f"rank {number + 1} of {len(self._processes) + 1} {how}; its last messages, if any, are above"


def _environment(size: int, *, port: int) -> dict[str, str]:
    """The environment variables of rank 0 for torch and Lightning; LOCAL_RANK says that the processes exist already."""
    address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return address | {"WORLD_SIZE": str(size), "NODE_RANK": "0", "RANK": "0", "LOCAL_RANK": "0"}


def _join(store: Any) -> None:
    """Joins the process group: gloo between CPUs, NCCL between GPUs; Lightning uses it as it is."""
    import torch
    import torch.distributed as dist

    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    dist.init_process_group(backend, store=store, rank=rank, world_size=size)


def _join_rank_0() -> None:
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    store = TCPStore(os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"]), is_master=False)
    store.set(f"here/{os.environ['RANK']}", "")
    _join(store)


def _leave() -> None:
    """Leaves the process groups, if torch was loaded and they exist."""
    if "torch.distributed" in sys.modules:
        import torch.distributed as dist

        if dist.is_initialized():
            dist.destroy_process_group()


def _end_with_rank_0() -> None:
    while os.read(0, 1):
        pass
    os._exit(0)


def main() -> int:
    """The program of a rank: reads its request from standard input, and writes an error to standard output."""
    for number in (signal.SIGINT, signal.SIGTERM):  # rank 0 gets them too and decides for all
        signal.signal(number, signal.SIG_IGN)
    logging.basicConfig(level=logging.WARNING, format=f"rank {os.environ['RANK']}: %(levelname)s %(message)s")
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # standard output is for the error only; what libraries print goes to standard error
    with os.fdopen(0, closefd=False) as stream:
        request = json.loads(stream.readline())
    threading.Thread(target=_end_with_rank_0, daemon=True).start()
    module, _, name = request["function"].partition(":")
    try:
        _join_rank_0()
        function: Callable[..., None] = getattr(importlib.import_module(module), name)
        function(**request["arguments"], ranks=ProcessGroup())
        _leave()
    except ReidError as error:
        answer.write(json.dumps({"kind": type(error).__name__, "text": str(error)}) + "\n")
        answer.flush()
        return error.exit_status
    return 0


if __name__ == "__main__":
    sys.exit(main())
