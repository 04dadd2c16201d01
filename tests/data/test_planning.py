import pickle
import threading
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context

import numpy as np
import pytest

from reid.data.planning import PlannedEpochs
from reid.data.sampler import EpochSteps
from reid.errors import DatasetError


def an_array(epoch: int) -> np.ndarray:
    return np.full((2, 3), epoch)


class Noted:
    """A plan that notes the epochs and the threads that made it."""

    def __init__(self) -> None:
        self.made: list[tuple[int, str]] = []

    def __call__(self, epoch: int) -> np.ndarray:
        self.made.append((epoch, threading.current_thread().name))
        return an_array(epoch)


def test_each_epoch_is_planned_once_in_a_thread_while_the_one_before_it_runs():
    plan = Noted()
    planned = PlannedEpochs(plan)
    main = threading.current_thread().name
    assert [planned.batches(epoch, last=epoch == 2)[0, 0] for epoch in range(3)] == [0, 1, 2]
    assert plan.made == [(0, main), (1, "plan of epoch 1"), (2, "plan of epoch 2")]


def test_any_epoch_can_be_asked_for_and_none_gets_the_plan_of_another():
    planned = PlannedEpochs(an_array)
    assert [planned.batches(epoch)[0, 0] for epoch in (7, 8, 3, 3, 4, 9)] == [7, 8, 3, 3, 4, 9]


def test_the_loader_does_not_wait_for_the_plan_of_the_next_epoch():
    hold = threading.Event()

    def plan(epoch: int) -> np.ndarray:
        assert epoch == 0 or hold.wait(10)
        return an_array(epoch)

    planned = PlannedEpochs(plan)
    assert planned.batches(0)[0, 0] == 0  # would wait 10 s and fail
    hold.set()
    assert planned.batches(1, last=True)[0, 0] == 1


def test_an_error_of_the_thread_is_raised_for_the_epoch_that_it_planned():
    def plan(epoch: int) -> np.ndarray:
        if epoch == 1:
            raise DatasetError("no such epoch")
        return an_array(epoch)

    planned = PlannedEpochs(plan)
    planned.batches(0)
    with pytest.raises(DatasetError, match="no such epoch"):
        planned.batches(1)


def test_the_planned_batches_are_those_of_the_steps_themselves():
    person = np.random.default_rng(0).permutation(np.repeat(np.arange(9), 7))
    alone, planned = (EpochSteps(person, batch_size=8, num_instances=2, seed=5) for _ in range(2))
    planned.batches_of = PlannedEpochs(planned.plan).batches
    for epoch, first in ((0, 0), (1, 0), (2, 3), (3, 0)):
        for steps in (alone, planned):
            steps.begin_at(epoch, first)
        assert [(s.epoch, s.step, s.indices.tolist()) for s in alone] == (
            [(s.epoch, s.step, s.indices.tolist()) for s in planned]
        )


def test_a_copy_in_another_process_and_a_fork_plan_anew():
    planned = PlannedEpochs(an_array)
    planned.batches(0)
    assert pickle.loads(pickle.dumps(planned)).batches(1, last=True)[0, 0] == 1
    with ThreadPoolExecutor(1) as pool:  # another thread of this process may take it
        assert pool.submit(planned.batches, 1).result()[0, 0] == 1
    context = get_context("fork")
    queue = context.Queue()
    child = context.Process(target=lambda: queue.put(int(planned.batches(2)[0, 0])))
    child.start()
    assert queue.get(timeout=10) == 2
    child.join()
