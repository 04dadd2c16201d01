"""The copies of a GPU's tensors, on the CPU: streams that do their work only when something waits for them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from reid.model.safe_files import read_file
from reid.training.host_copies import HostCopies
from reid.training.resume import DurableCheckpoints


class LaterCopies(TorchDispatchMode):
    """Puts every copy into a queue instead of doing it."""

    def __init__(self, queue: list[Callable[[], object]]) -> None:
        super().__init__()
        self.queue = queue

    def __torch_dispatch__(self, function: Any, _types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert function is torch.ops.aten.copy_.default
        assert args[2] is True  # non_blocking
        self.queue.append(lambda: function(*args))
        return args[0]


class Stream:
    """A stream; `training` does its work at once, so that waiting for it needs nothing."""

    def __init__(self, log: list[str], name: str) -> None:
        self.log, self.name, self.queue = log, name, list[Callable[[], object]]()

    def wait_stream(self, other: "Stream") -> None:
        self.log.append(f"{self.name} waits for {other.name}")
        other.run()

    def run(self) -> None:
        for work in self.queue:
            work()
        self.queue.clear()


class Event:
    def __init__(self, *, blocking: bool) -> None:
        assert blocking

    def record(self, stream: Stream) -> None:
        self.stream = stream

    def synchronize(self) -> None:
        self.stream.run()


class Cuda:
    """What HostCopies uses of torch.cuda, for tensors that are on the CPU."""

    Event = Event

    def __init__(self) -> None:
        self.log = list[str]()
        self.training, self.side = Stream(self.log, "training"), Stream(self.log, "side")
        self.recorded = list[Tensor]()

    def Stream(self, _device: torch.device) -> Stream:
        return self.side

    def current_stream(self, _device: torch.device) -> Stream:
        return self.training

    @contextmanager
    def stream(self, stream: Stream) -> Iterator[None]:
        with LaterCopies(stream.queue):
            yield


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    found = Cuda()
    monkeypatch.setattr(Tensor, "record_stream", lambda tensor, _stream: found.recorded.append(tensor))
    return found


def copies(cuda: Cuda) -> HostCopies:
    return HostCopies(cuda=cuda, on_gpu=lambda tensor: tensor.dtype == torch.float32)


def test_the_copy_holds_what_was_there_although_it_is_made_after_the_next_step(cuda):
    weights = torch.arange(6.0).view(1, 2, 3, 1).to(memory_format=torch.channels_last)
    steps = torch.tensor(4)  # on the CPU, as some optimizers have it
    finish = copies(cuda).begin({"state": [weights, {"steps": steps}], "epoch": 3})
    assert cuda.log == ["side waits for training"]
    assert len(cuda.side.queue) == 1
    weights += 1
    steps += 1
    kept = finish()
    assert kept["state"][0].flatten().tolist() == [0, 1, 2, 3, 4, 5]
    assert kept["state"][0].stride() == weights.stride()
    assert (kept["state"][1]["steps"], kept["epoch"]) == (4, 3)
    assert [tensor.data_ptr() == weights.data_ptr() for tensor in cuda.recorded] == [False]  # the clone is kept


def test_without_room_for_a_clone_the_training_waits_for_the_copy_of_the_tensor_itself(cuda, monkeypatch):
    weights = torch.arange(3.0)

    def full(_tensor: Tensor) -> Tensor:
        raise torch.OutOfMemoryError

    with monkeypatch.context() as patch:
        patch.setattr(Tensor, "clone", full)
        finish = copies(cuda).begin([weights])
    assert cuda.log == ["side waits for training", "training waits for side"]
    weights += 1
    assert finish()[0].tolist() == [0, 1, 2]
    assert cuda.recorded == []


def test_the_memory_of_the_last_checkpoint_is_used_again_if_it_fits(cuda):
    made = copies(cuda)
    tensors = [torch.zeros(4), torch.ones(2, 3)]
    first = [tensor.data_ptr() for tensor in made.begin(tensors)()]
    kept = made.begin([tensors[0] + 5, tensors[1]])()
    assert [tensor.data_ptr() for tensor in kept] == first
    assert kept[0].tolist() == [5, 5, 5, 5]
    other = made.begin([tensors[0], torch.ones(3, 2), torch.ones(1)])()
    assert [tensor.shape for tensor in other] == [(4,), (3, 2), (1,)]
    assert other[0].data_ptr() == first[0]


def test_the_writing_thread_waits_for_the_copies(cuda, tmp_path: Path):
    checkpoints, weights = DurableCheckpoints(copies(cuda)), torch.zeros(3)
    for step in range(3):
        checkpoints.save_checkpoint({"weights": weights}, tmp_path / f"{step}.pth")
        weights += 1
    checkpoints.wait()
    assert [read_file(tmp_path / f"{step}.pth")["weights"].tolist() for step in range(3)] == (
        [[0, 0, 0], [1, 1, 1], [2, 2, 2]]
    )
    assert (tmp_path / "0.pth").stat().st_size == (tmp_path / "2.pth").stat().st_size
