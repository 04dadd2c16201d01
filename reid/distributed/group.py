"""The ranks of one task as a group: they get the same request, call the same function, and end as one.

Rank 0 puts its request into the group's store (torch's TCPStore, which all ranks reach); each rank joins the process
group, calls the function that the request names, and leaves when all are done. A rank that fails writes why into the
store. In a group over several machines, a thread of each rank waits for that, so that no machine computes on, or waits
in NCCL, when another one has failed. If the store itself is gone, so is the first machine.
"""

import importlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any, Protocol

from reid.distributed.channel import described, error_from
from reid.distributed.joining import Place
from reid.distributed.ranks import ProcessGroup
from reid.errors import RankLost, ReidError

logger = logging.getLogger(__name__)

COLLECTIVE_S = 600
"""How long a rank waits for the others in one exchange; torch's default is half an hour."""
FOREVER = timedelta(days=365)
CONSEQUENCE_S = 0.5
"""A rank that fails because another one is gone lets that one be noticed first for so long."""
DESTROY_S = 10.0
"""How long a rank waits, once all are done, for the others and for its own connections to close."""

LONGEST_FOUND = 600
"""Characters of torch's message that an error quotes."""
POLL_S = 0.05
INTERRUPTED = 130
"""The exit status of a process that Ctrl-C or SIGTERM has stopped."""


class Tell(Protocol):
    """What rank 0 tells the task while it computes: the name of what is told, and plain values."""

    def __call__(self, name: str, /, **arguments: Any) -> None: ...


def tell_nobody(_name: str, /, **_arguments: Any) -> None:
    """What the other ranks tell."""


class Group:
    """This process as one of the ranks that the environment variables of torchrun describe."""

    def __init__(self, place: Place, *, ended: Callable[[ReidError], None] | None = None) -> None:
        """Finds the store. ended: called in a thread with the reason if another rank has failed."""
        from torch.distributed import PrefixStore, rendezvous  # type: ignore[attr-defined]

        self.place = place
        os.environ.update(_environment(place))
        store, _, _ = next(rendezvous("env://", timeout=timedelta(seconds=COLLECTIVE_S)))
        attempt = f"reid/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}"
        self._store = PrefixStore(attempt, store)
        self._turn = 0
        self._over = False
        if ended:
            watched = PrefixStore(attempt, store.clone())
            threading.Thread(target=self._watch, args=(watched, ended), name="other ranks", daemon=True).start()

    def set_request(self, request: Mapping[str, Any]) -> None:
        """Gives all ranks the next request; one without a function ends them."""
        self._store.set(f"request/{self._turn}", json.dumps(request))

    def next_request(self) -> dict[str, Any]:
        """The next request, as soon as rank 0 has it."""
        name = f"request/{self._turn}"
        while not self._store.check([name]):  # torch's own waiting lets no signal through
            time.sleep(POLL_S)
        request: dict[str, Any] = json.loads(self._store.get(name))
        return request

    def call(self, request: Mapping[str, Any], tell: Tell, *, known: Mapping[str, Any] | None = None) -> Any:
        """Calls the request's function with all other ranks; returns what it returns here.

        Raises the error of the rank that failed first if it was a ReidError; else RankLost if it was another rank.
        """
        ranks = self._join()
        try:
            result = function_of(request)(**request["arguments"], **(known or {}), ranks=ranks, tell=tell)
            ranks.any(False)  # nobody leaves before all are done: NCCL hangs if one waits for another that has left
        except KeyboardInterrupt as error:
            if isinstance(error, StoppedTogether):
                ranks.any(False)
                self._leave()
            raise
        except ReidError as error:
            self.fail(error)
            raise
        except Exception as error:
            reason = self._reason(error)
            if reason is None:
                self.fail(RankLost(f"rank {self.place.rank} of {self.place.size} failed: {first_line(error)}"))
                raise
            raise reason from error
        self._leave()
        return result

    def fail(self, error: ReidError) -> None:
        """Lets all ranks know why this one ends, unless another one was first."""
        self._over = True
        try:
            self._store.compare_set("error", "", json.dumps(described(error)))
        except Exception as gone:
            logger.debug("the store of the ranks is gone: %s", gone)

    def end(self, status: int) -> None:
        """Ends the task as rank 0, with its exit status; the others end too, unless they have failed already."""
        self._over = True
        try:
            self.set_request({"exit_status": status})
        except Exception as gone:
            logger.debug("the store of the ranks is gone: %s", gone)
        self.part()

    def part(self) -> None:
        """The end of this rank's part: rank 0, which may hold the store, waits until the others know of it."""
        self._over = True
        deadline = time.monotonic() + DESTROY_S
        try:
            if self.place.rank:
                self._store.add("gone", 1)
                return
            while self._store.add("gone", 0) < self.place.size - 1 and time.monotonic() < deadline:
                time.sleep(POLL_S)
        except Exception as gone:  # with the first machine, which has all that it needs
            logger.debug("the store of the ranks is gone: %s", gone)

    def _join(self) -> ProcessGroup:
        """Joins the process group: gloo between CPUs, NCCL between GPUs; Lightning uses it as it is."""
        import torch
        import torch.distributed as dist
        from torch.distributed import PrefixStore  # type: ignore[attr-defined]

        own = PrefixStore(str(self._turn), self._store)
        os.environ.update(_environment(self.place))  # Lightning removes some of them after a training
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo",
            store=PrefixStore("group", own),
            rank=self.place.rank,
            world_size=self.place.size,
            timeout=timedelta(seconds=COLLECTIVE_S),
        )
        self._turn += 1
        return ProcessGroup(self.place, own)

    def _leave(self) -> None:
        """Destroys the process group; all ranks do it at once, and what goes wrong in it spoils nothing."""
        import torch.distributed as dist

        def destroy() -> None:
            try:
                dist.destroy_process_group()
            except Exception as error:
                logger.debug("leaving the process group: %s", error)

        leaving = threading.Thread(target=destroy, name="leaving", daemon=True)
        leaving.start()
        leaving.join(DESTROY_S)

    def _reason(self, error: Exception) -> ReidError | None:
        """Why another rank has failed, if `error` is only the consequence; None if it is this rank's own."""
        time.sleep(CONSEQUENCE_S)
        try:
            if self._store.check(["error"]):
                return error_from(json.loads(self._store.get("error")))
        except Exception as gone:
            logger.debug("the store of the ranks is gone: %s", gone)
        return self._lost_connection(error) if is_about_connections(error) else None

    def _lost_connection(self, error: Exception) -> RankLost:
        """The error of a rank that cannot talk to another one; NCCL's own words say if it is a fault of the machine."""
        found = " ".join(str(error).partition("Exception raised from")[0].split())
        return RankLost(
            f"rank {self.place.rank} of {self.place.size} lost its connection to another rank\n"
            f"  found: {type(error).__name__}: {found[:LONGEST_FOUND]}\n"
            "  want:  the log of that rank, perhaps on another machine; then run the task again on all machines"
        )

    def _watch(self, store: Any, ended: Callable[[ReidError], None]) -> None:
        try:
            store.wait(["error"], FOREVER)
            error = error_from(json.loads(store.get("error")))
        except Exception as gone:
            error = self._lost_connection(gone)
        if not self._over:
            time.sleep(CONSEQUENCE_S)  # this rank may have raised it itself
            if not self._over:
                ended(error)


def function_of(request: Mapping[str, Any]) -> Callable[..., Any]:
    """The function that a request names as "module:function"."""
    module, _, name = str(request["function"]).partition(":")
    function: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return function


class StoppedTogether(KeyboardInterrupt):
    """All ranks stopped after the same step, because one of them was asked to."""


def first_line(error: BaseException) -> str:
    """The kind of an error and its first line."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


def is_about_connections(error: Exception) -> bool:
    """Whether an error says that another rank cannot be reached."""
    from torch.distributed import DistError

    text = str(error)
    return isinstance(error, DistError) or any(
        word in text
        for word in ("Connection closed by peer", "Connection reset by peer", "gloo", "NCCL", "Broken pipe")
    )


def _environment(place: Place) -> dict[str, str]:
    """The place in the variables that torch and Lightning read; LOCAL_RANK says that the processes exist already."""
    return {
        "MASTER_ADDR": place.address,
        "MASTER_PORT": str(place.port),
        "WORLD_SIZE": str(place.size),
        "RANK": str(place.rank),
        "LOCAL_RANK": str(place.local_rank),
        "LOCAL_WORLD_SIZE": str(place.local_size),
        "NODE_RANK": str(place.rank // place.local_size),
        "GROUP_RANK": str(place.rank // place.local_size),
    }
