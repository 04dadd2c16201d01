import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import reid
from reid.retrieval.parallel import in_order, row_ranges, run_all, shares, thread_count, worker_pool

RANK = """
import numpy as np
from reid.retrieval import nearest
from reid.retrieval.protocol import market_protocol
one = np.ones(1, np.int64)
finder = nearest.NearestFinder(
    market_protocol(query_person=one, query_camera=one, gallery_person=one, gallery_camera=2 * one), ranks=1)
finder.add(0, np.zeros((1, 1), np.float32))
print(finder.found.image.tolist())
stats = nearest._find.stats
print(sum(stats.cache_hits.values()), sum(stats.cache_misses.values()))
"""


def run(code, root, **environment):
    """A fresh Python with `root` as its place of reid -> (lines of output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-B", "-c", code],
        cwd=root,
        env={**os.environ, "PYTHONPATH": str(root), **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout.splitlines(), done.stderr


def test_ranges_cover_all_rows_once():
    assert row_ranges(10, size=4) == [(0, 4), (4, 8), (8, 10)]
    assert row_ranges(0, size=4) == []


@pytest.mark.parametrize("threads", [1, 2, 16])
def test_a_few_rows_of_a_long_gallery_are_shared_by_all_threads(monkeypatch, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    few, many = shares(16, most=64), shares(10_000, most=64)
    assert len(few) >= threads
    assert (few[0][0], few[-1][1]) == (0, 16)
    assert max(end - first for first, end in many) == 64
    assert shares(1, most=64) == [(0, 1)]
    assert shares(0, most=64) == []


def test_results_come_in_the_order_of_the_items():
    with worker_pool() as pool:
        assert list(in_order(pool, lambda number: number * number, range(50))) == [n * n for n in range(50)]


def test_results_that_were_taken_are_not_kept():
    alive: set[int] = set()

    class Result:
        def __init__(self, number: int) -> None:
            self.number = number
            alive.add(number)

        def __del__(self) -> None:
            alive.discard(self.number)

    most = 0
    with worker_pool() as pool:
        for _ in in_order(pool, Result, range(1000)):
            most = max(most, len(alive))
    assert most <= 4 * thread_count() + 2  # those queued, the one taken, the one before it


def test_an_error_in_a_thread_is_raised_and_the_rest_is_dropped():
    started = []
    hold = threading.Event()

    def work(number):
        started.append(number)
        if number == 0:
            raise ZeroDivisionError
        hold.wait(0.01)

    with pytest.raises(ZeroDivisionError), worker_pool() as pool:
        run_all(pool, work, range(10_000))
    assert len(started) < 10_000


@pytest.mark.parametrize(("setting", "wanted"), [("3", 3), ("", None), ("0", None)])
def test_omp_num_threads_sets_the_threads(monkeypatch, setting, wanted):
    monkeypatch.setenv("OMP_NUM_THREADS", setting)
    assert thread_count() == (wanted or len(os.sched_getaffinity(0)))


def test_a_second_process_compiles_nothing(tmp_path):
    root = Path(reid.__file__).parents[1]
    first, _ = run(RANK, root, NUMBA_CACHE_DIR=str(tmp_path))
    second, _ = run(RANK, root, NUMBA_CACHE_DIR=str(tmp_path))
    assert first == ["[[0]]", "0 1"]
    assert second == ["[[0]]", "1 0"]


def test_compiled_code_works_if_no_cache_can_be_written(tmp_path):
    shutil.copytree(Path(reid.__file__).parent, tmp_path / "reid", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "reid/retrieval/__pycache__").write_text("a file where the folder would be")
    nowhere = str(tmp_path / "reid/retrieval/__pycache__/cache")
    lines, said = run(RANK, tmp_path, NUMBA_CACHE_DIR=nowhere, HOME=nowhere, XDG_CACHE_HOME=nowhere)
    assert lines[0] == "[[0]]"
    assert said == (
        "compiled code cannot be kept, every process compiles again: set NUMBA_CACHE_DIR to a writable folder\n"
    )
