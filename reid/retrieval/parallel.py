"""Compiled kernels and the threads they run on.

A kernel is a serial loop over a range of rows that releases the interpreter lock. If the ranges could change a result
they are cut by size, never by the number of threads, so that the result does not depend on the machine. BLAS gets one
thread inside a pool: two sets of threads on the same cores cost more than they gain.
"""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import Any, TypeVar

import numba
from threadpoolctl import ThreadpoolController  # type: ignore[import-untyped]

logger = logging.getLogger(__name__)

Kernel = TypeVar("Kernel", bound=Callable[..., Any])
Item = TypeVar("Item")
Result = TypeVar("Result")

SUM_IN_ANY_ORDER = frozenset({"reassoc", "contract"})
"""Lets the compiler vectorise a sum. Every pair of rows is still summed in one and the same order."""


def compiled(fastmath: frozenset[str] = frozenset()) -> Callable[[Kernel], Kernel]:
    """A decorator: machine code at the first call, kept on disk for the next process.

    numba keeps it in NUMBA_CACHE_DIR, else beside the source, else in the user's cache folder. If none of them can be
    written numba raises at the decoration; then each process compiles the kernel again.
    """

    def decorate(function: Kernel) -> Kernel:
        options = {"nogil": True, "fastmath": set(fastmath), "error_model": "numpy"}
        try:
            kernel = numba.njit(cache=True, **options)(function)
        except RuntimeError:
            _warn_once(
                "compiled code cannot be kept, every process compiles again: set NUMBA_CACHE_DIR to a writable folder"
            )
            kernel = numba.njit(**options)(function)
        return kernel  # type: ignore[no-any-return]

    return decorate


def thread_count() -> int:
    """Number of threads for kernels: OMP_NUM_THREADS if it is set, else the processors that this process may use."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    if asked.isdigit() and int(asked) > 0:
        return int(asked)
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1  # macOS cannot say which ones


def row_ranges(rows: int, *, size: int) -> list[tuple[int, int]]:
    """[(first, end), ...) that cover `rows` rows, `size` at a time."""
    return [(first, min(first + size, rows)) for first in range(0, rows, size)]


def shares(rows: int, *, most: int) -> list[tuple[int, int]]:
    """`row_ranges` of at most `most` rows that keep every thread busy; for kernels whose rows are independent."""
    return row_ranges(rows, size=max(1, min(most, rows // (2 * thread_count()))))


@contextmanager
def worker_pool() -> Iterator[ThreadPoolExecutor]:
    """Threads for kernels and matrix products, each with one BLAS thread; an error or Ctrl-C drops queued work."""
    with _controller().limit(limits=1, user_api="blas"):
        pool = ThreadPoolExecutor(thread_count(), thread_name_prefix="retrieval")
        try:
            yield pool
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def in_order(pool: ThreadPoolExecutor, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """function(item) for every item, one after the other in the items' order; only a few are queued or kept at a time.

    Like every generator it does nothing until its results are taken: `run_all` is for functions without a result.
    """
    queued: deque[Future[Result]] = deque()
    for item in items:
        queued.append(pool.submit(function, item))
        if len(queued) >= 4 * thread_count():
            yield queued.popleft().result()
    while queued:
        yield queued.popleft().result()


def run_all(pool: ThreadPoolExecutor, function: Callable[[Item], None], items: Iterable[Item]) -> None:
    """Calls function(item) for every item and waits for all."""
    for _ in in_order(pool, function, items):
        pass


@cache
def _controller() -> ThreadpoolController:
    return ThreadpoolController()


@cache
def _warn_once(text: str) -> None:
    logger.warning(text)
