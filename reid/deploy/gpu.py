"""Lists the NVIDIA GPUs of this machine by the driver alone, without torch or the CUDA toolkit."""

import ctypes
import sys
from dataclasses import dataclass

from reid.errors import SpecError

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver API."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and its compute capability, e.g. "8.6"."""

    name: str
    compute_capability: str

    @property
    def words(self) -> str:
        """The GPU in the words of a message."""
        return f"{self.name}, compute capability {self.compute_capability}"


def open_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library; None if there is none."""
    try:
        return ctypes.CDLL(DRIVER)
    except OSError:
        return None


def list_gpus() -> list[Gpu]:
    """The GPUs that the driver shows this process, in its order; empty if there is no driver or no GPU."""
    driver, count = open_driver(), ctypes.c_int()
    if driver is None or driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)):
        return []
    gpus = []
    for number in range(count.value):
        device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
        name = ctypes.create_string_buffer(256)
        failed = (
            driver.cuDeviceGet(ctypes.byref(device), number)
            or driver.cuDeviceGetName(name, len(name), device)
            or driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
            or driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
        )
        if failed:
            return []
        gpus.append(Gpu(name.value.decode(), f"{major.value}.{minor.value}"))
    return gpus


def use_gpu(gpu_id: int, *, field: str = "gpu_id") -> Gpu | None:
    """Makes GPU `gpu_id` the current one of this thread and returns it; None if there is no driver or no GPU.

    Raises SpecError, naming the `field` of the spec, if there are GPUs and `gpu_id` is none of them.
    """
    gpus = list_gpus()
    if not gpus:
        return None
    if gpu_id >= len(gpus):
        raise SpecError(
            f"{field}: {gpu_id}: no such GPU\n"
            f"  found: {', '.join(f'{number} ({gpu.name})' for number, gpu in enumerate(gpus))}\n"
            f"  want:  {f'0 to {len(gpus) - 1}' if len(gpus) > 1 else 0}"
        )
    driver, device, context = open_driver(), ctypes.c_int(), ctypes.c_void_p()
    assert driver is not None  # list_gpus found it
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), gpu_id)
        # CUDA's runtime, which TensorRT uses, takes the thread's current primary context for its device
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxSetCurrent(context)
    )
    return None if failed else gpus[gpu_id]
