"""How the processes (ranks) of one task talk to each other; `reid.distributed.launching` starts them.

Shapes: N rows, D width of the embedding.
"""

import time
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reid.distributed.joining import Place

POLL_S = 0.05


class Ranks(Protocol):
    """The collective calls of a task's ranks: every rank makes them all, in the same order."""

    rank: int
    size: int
    local_rank: int
    """The number of the rank among those of its machine."""
    machines: int
    """How many machines take part; each has equally many ranks."""

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank; plain data."""

    def any(self, wish: bool) -> bool:
        """Whether `wish` is true on any rank."""

    def meet(self) -> None:
        """Waits until all ranks are here, however long the slowest takes; the other calls give up after a while."""

    def collect(self, vectors: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Fills rank 0's vectors (N, D) with the rows that each rank has; rows[r]: the rows of rank r."""


class SingleProcess:
    """The only rank of a task in one process."""

    rank, size, local_rank, machines = 0, 1, 0, 1

    def share(self, value: Any) -> Any:
        """The value itself."""
        return value

    def any(self, wish: bool) -> bool:
        """The wish itself."""
        return wish

    def meet(self) -> None:
        """Does nothing: nobody is late."""

    def collect(self, vectors: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Does nothing: all rows are here."""


SINGLE_PROCESS = SingleProcess()


class ProcessGroup:
    """This process as one of several ranks. They talk from CPU to CPU (gloo), so that no GPU waits."""

    def __init__(self, place: Place, store: Any) -> None:
        """store: one of torch's, for this group's own use."""
        self._store, self._meetings = store, 0
        self.rank, self.size = place.rank, place.size
        self.local_rank, self.machines = place.local_rank, place.size // place.local_size

    def share(self, value: Any) -> Any:
        """Rank 0's value on every rank; plain data."""
        import torch
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0, device=torch.device("cpu"))
        return box[0]

    def any(self, wish: bool) -> bool:
        """Whether `wish` is true on any rank."""
        import torch
        import torch.distributed as dist

        wishes = torch.tensor([int(wish)])
        dist.all_reduce(wishes, op=dist.ReduceOp.MAX)
        return bool(wishes.item())

    def meet(self) -> None:
        """Waits until all ranks are here; a signal interrupts it, and so does the end of another rank."""
        self._meetings += 1
        name = f"meeting/{self._meetings}"
        here = self._store.add(name, 1)
        while here < self.size:
            time.sleep(POLL_S)
            here = self._store.add(name, 0)

    def collect(self, vectors: NDArray[np.float32], rows: Sequence[NDArray[np.int64]]) -> None:
        """Fills rank 0's vectors (N, D) with the rows that each rank has; rows[r]: the rows of rank r."""
        import torch
        import torch.distributed as dist

        if self.rank:
            if len(rows[self.rank]):
                dist.send(torch.from_numpy(vectors[rows[self.rank]]), dst=0)
            return
        for other in filter(lambda other: len(rows[other]), range(1, self.size)):
            received = torch.empty((len(rows[other]), vectors.shape[1]))
            dist.recv(received, src=other)
            vectors[rows[other]] = received.numpy()
