"""A stream and buffers of a GPU, through NVIDIA's driver alone, because the TensorRT image has no torch.

They belong to the GPU that gpu.use_gpu made current, and to the thread that called it.
"""

import ctypes
import math
import weakref
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.deploy.gpu import open_driver
from reid.errors import ArtifactError

NON_BLOCKING = 1
"""CU_STREAM_NON_BLOCKING: the stream does not wait for the default stream."""
WITHOUT_TIMES = 2
"""CU_EVENT_DISABLE_TIMING."""


class Stream:
    """A queue of work for the GPU."""

    def __init__(self) -> None:
        driver = open_driver()
        assert driver is not None  # use_gpu found it
        self._driver = driver
        handle = ctypes.c_void_p()
        self.call("cuStreamCreate", ctypes.byref(handle), ctypes.c_uint(NON_BLOCKING))
        self._handle = handle
        weakref.finalize(self, driver.cuStreamDestroy_v2, handle)

    @property
    def address(self) -> int:
        """CUDA's handle of the stream, as a number."""
        return int(self._handle.value or 0)

    def call(self, name: str, *arguments: Any) -> None:
        """Calls a function of the driver; raises ArtifactError with CUDA's name of the error if it fails."""
        code = getattr(self._driver, name)(*arguments)
        if code:
            word = ctypes.c_char_p()
            self._driver.cuGetErrorName(code, ctypes.byref(word))
            raise ArtifactError(f"CUDA: {name}: {(word.value or b'unknown error').decode()} ({code})")

    def copy_in(self, buffer: "Buffer", count: int) -> None:
        """Queues the copy of the first `count` values to the GPU."""
        source = ctypes.c_void_p(buffer.host.ctypes.data)
        self.call("cuMemcpyHtoDAsync_v2", buffer.device, source, ctypes.c_size_t(4 * count), self._handle)

    def copy_out(self, buffer: "Buffer", count: int) -> None:
        """Queues the copy of the first `count` values from the GPU."""
        target = ctypes.c_void_p(buffer.host.ctypes.data)
        self.call("cuMemcpyDtoHAsync_v2", target, buffer.device, ctypes.c_size_t(4 * count), self._handle)

    def mark(self, event: "Event") -> None:
        """The event now stands for all work that was queued up to here."""
        self.call("cuEventRecord", event.handle, self._handle)

    def wait_for(self, event: "Event") -> None:
        """Work that is queued from now on waits for the event's work; the host does not wait."""
        self.call("cuStreamWaitEvent", self._handle, event.handle, ctypes.c_uint(0))


class Event:
    """A place in a stream's queue, for which another stream or the host can wait."""

    def __init__(self, stream: Stream) -> None:
        self._call = stream.call
        self.handle = ctypes.c_void_p()
        stream.call("cuEventCreate", ctypes.byref(self.handle), ctypes.c_uint(WITHOUT_TIMES))
        weakref.finalize(self, stream.call, "cuEventDestroy_v2", self.handle)

    def wait(self) -> None:
        """The host waits until the work up to here is done."""
        self._call("cuEventSynchronize", self.handle)


class Buffer:
    """float32 values on the GPU, and as many in page-locked host memory, from which copies run at full speed."""

    def __init__(self, stream: Stream, shape: tuple[int, ...]) -> None:
        count = math.prod(shape)
        self.device, host = ctypes.c_uint64(), ctypes.c_void_p()
        stream.call("cuMemAlloc_v2", ctypes.byref(self.device), ctypes.c_size_t(4 * count))
        stream.call("cuMemAllocHost_v2", ctypes.byref(host), ctypes.c_size_t(4 * count))
        assert host.value is not None
        values = np.ctypeslib.as_array((ctypes.c_float * count).from_address(host.value))
        values[:] = 0
        self.host: NDArray[np.float32] = values.reshape(shape)
        weakref.finalize(self, stream.call, "cuMemFree_v2", self.device)
        weakref.finalize(self, stream.call, "cuMemFreeHost", host)

    @property
    def address(self) -> int:
        """The buffer's address on the GPU."""
        return int(self.device.value)
