"""The NVIDIA GPU of this machine, asked of the driver itself: no torch, no CUDA toolkit."""

import ctypes
import sys
from dataclasses import dataclass

from reid.errors import SpecError

DRIVER = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
CAPABILITY_MAJOR, CAPABILITY_MINOR = 75, 76
"""CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR of the driver API."""


@dataclass(frozen=True)
class Gpu:
    """A GPU and what it can compute, e.g. "8.6"."""

    name: str
    compute_capability: str


def open_driver() -> ctypes.CDLL | None:
    """NVIDIA's driver library; None where there is none."""
    try:
        return ctypes.CDLL(DRIVER)
    except OSError:
        return None


def use_gpu(gpu_id: int) -> Gpu | None:
    """Make GPU `gpu_id` the current one of this thread and say what it is; None where there is no driver or no GPU.

    Raises SpecError where there are GPUs and `gpu_id` is none of them.
    """
    driver = open_driver()
    if driver is None:
        return None
    count = ctypes.c_int()
    if driver.cuInit(0) or driver.cuDeviceGetCount(ctypes.byref(count)) or not count.value:
        return None
    if gpu_id >= count.value:
        raise SpecError(f"gpu_id: {gpu_id}: this machine has {count.value} GPUs; want 0 to {count.value - 1}")
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name, context = ctypes.create_string_buffer(256), ctypes.c_void_p()
    failed = (
        driver.cuDeviceGet(ctypes.byref(device), gpu_id)
        or driver.cuDeviceGetName(name, len(name), device)
        or driver.cuDeviceGetAttribute(ctypes.byref(major), CAPABILITY_MAJOR, device)
        or driver.cuDeviceGetAttribute(ctypes.byref(minor), CAPABILITY_MINOR, device)
        # CUDA's runtime, which TensorRT uses, takes the thread's current primary context for its device
        or driver.cuDevicePrimaryCtxRetain(ctypes.byref(context), device)
        or driver.cuCtxSetCurrent(context)
    )
    return None if failed else Gpu(name.value.decode(), f"{major.value}.{minor.value}")
