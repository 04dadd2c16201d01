"""Copies of a checkpoint's tensors in this machine's memory, made from a GPU while the training goes on.

The next step overwrites the weights, so they are first cloned on the GPU, in the training's own stream: that takes well
under a millisecond and the host does not wait. A second stream then copies the clones to page-locked memory, beside the
steps. The clones' memory is free again as soon as these copies are done. If there is no room for a clone, the tensor
itself is copied, and the training's stream waits for that. The page-locked memory is kept for the next checkpoint.
"""

import logging
from collections.abc import Callable, Iterator
from itertools import count
from typing import Any

import torch
from lightning_utilities.core.apply_func import apply_to_collection
from torch import Tensor

logger = logging.getLogger(__name__)


class HostCopies:
    """Copies the tensors in nested lists and dictionaries; one copy at a time."""

    def __init__(self, *, cuda: Any = torch.cuda, on_gpu: Callable[[Tensor], bool] = lambda tensor: tensor.is_cuda):
        """cuda, on_gpu: what has torch.cuda's functions, and which tensors it holds; others only in tests."""
        self._cuda, self._on_gpu = cuda, on_gpu
        self._streams: dict[torch.device, Any] = {}
        self._buffers: list[Tensor] = []

    def begin(self, content: Any) -> Callable[[], Any]:
        """Begins to copy all tensors as they are now; returns a function that waits for the copies and returns them.

        The result's tensors are good until the next `begin`, which may only come when they are no longer used.
        """
        number, moves = count(), list[tuple[Tensor, Tensor]]()

        def copy(tensor: Tensor) -> Tensor:
            tensor = tensor.detach()
            if not self._on_gpu(tensor):
                return tensor.clone()
            moves.append((tensor, self._buffer(next(number), tensor)))
            return moves[-1][1]

        copied = apply_to_collection(content, Tensor, copy)
        events = list(self._start(moves))

        def finish() -> Any:
            for event in events:
                event.synchronize()
            return copied

        return finish

    def _start(self, moves: list[tuple[Tensor, Tensor]]) -> Iterator[Any]:
        """Starts the copies (from, to) of every GPU; yields for each GPU an event after its copies."""
        for device in dict.fromkeys(tensor.device for tensor, _ in moves):
            if device not in self._streams:
                self._streams[device] = self._cuda.Stream(device)
            side, training = self._streams[device], self._cuda.current_stream(device)
            own = [(tensor, buffer) for tensor, buffer in moves if tensor.device == device]
            sources = [_clone(tensor) for tensor, _ in own]
            side.wait_stream(training)
            with self._cuda.stream(side):
                for source, (tensor, buffer) in zip(sources, own):
                    buffer.copy_(tensor if source is None else source, non_blocking=True)
            for source in sources:
                if source is None:
                    training.wait_stream(side)
                else:
                    source.record_stream(side)  # its memory is given to nobody else before the copy is done
            event = self._cuda.Event(blocking=True)  # the thread that waits for it sleeps
            event.record(side)
            yield event

    def _buffer(self, number: int, tensor: Tensor) -> Tensor:
        """Memory for the copy of the tensor with this number; that of the last checkpoint, if it fits."""
        if number == len(self._buffers):
            self._buffers.append(_page_locked(tensor))
        kept = self._buffers[number]
        if (kept.shape, kept.dtype, kept.stride()) != (tensor.shape, tensor.dtype, tensor.stride()):
            self._buffers[number] = _page_locked(tensor)
        return self._buffers[number]


def _clone(tensor: Tensor) -> Tensor | None:
    """A clone on the same device; None if its memory does not suffice."""
    try:
        return tensor.clone()
    except torch.OutOfMemoryError:
        return None


def _page_locked(tensor: Tensor) -> Tensor:
    """Memory of this machine for a tensor's values: page-locked if the system allows it, so that a GPU can write it."""
    try:
        return torch.empty_like(tensor, device="cpu", pin_memory=True)
    except RuntimeError as error:  # then the copy is as right, but the host waits for it
        logger.debug("no page-locked memory: %s", error)
        return torch.empty_like(tensor, device="cpu")
