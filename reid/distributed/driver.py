"""Why torch cannot use an NVIDIA GPU of this machine: found before the work, by the driver itself.

torch counts GPUs through NVML, which answers for any driver, and then fails at the first tensor if the driver is too
old; or it sees none, and a training would run on the CPU without a word.
"""

import ctypes
import logging
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from reid.errors import DriverError

logger = logging.getLogger(__name__)

LIBRARY = "libcuda.so.1"
OLDEST_DRIVERS = {11: "R450", 12: "R525", 13: "R580"}
"""CUDA's major version -> the oldest driver that runs it; a driver runs all minor versions of its major version."""


@dataclass(frozen=True)
class NvidiaDriver:
    """What this machine says of its NVIDIA driver; nothing here touches a GPU."""

    cuda: tuple[int, int] | None
    """The newest CUDA that the driver runs; None without its library."""
    version: str
    """The driver's own version, e.g. 570.124.06; "" if the system does not say."""
    devices: tuple[str, ...]
    """The device files of GPUs, e.g. /dev/nvidia0."""
    closed: tuple[str, ...]
    """Those of them that this process may not open."""

    @property
    def words(self) -> str:
        """The driver in the words of a message."""
        return f"driver {self.version}" if self.version else "a driver"


def read_driver(
    root: Path = Path("/"),
    *,
    library: Callable[[str], ctypes.CDLL] = ctypes.CDLL,
    may_open: Callable[..., bool] = os.access,
) -> NvidiaDriver:
    """The driver of this machine; root, library and may_open are others only in tests."""
    numbered = sorted(path for path in (root / "dev").glob("nvidia*") if path.name[len("nvidia") :].isdigit())
    files = [*numbered, *(path for path in [root / "dev" / "dxg"] if path.exists())]  # dxg: a GPU of Windows in WSL
    closed = [path for path in files if not may_open(path, os.R_OK | os.W_OK)]
    version = root / "proc" / "driver" / "nvidia" / "version"
    text = version.read_text(encoding="utf-8", errors="replace") if version.exists() else ""
    # NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 …; "Open Kernel Module for x86_64" likewise
    number = next((word for word in text.partition("\n")[0].split() if word.replace(".", "").isdigit()), "")
    return NvidiaDriver(_cuda_of(library), number, tuple(map(str, files)), tuple(map(str, closed)))


def refuse_old_driver(
    driver: NvidiaDriver, *, torch_cuda: str | None, environment: Mapping[str, str] = os.environ
) -> None:
    """Raises DriverError if there is a GPU whose driver is too old for torch's CUDA (13.0; None: without CUDA)."""
    if torch_cuda is None or driver.cuda is None or not driver.devices or _hidden(environment):
        return
    wanted = int(torch_cuda.partition(".")[0])
    if driver.cuda[0] >= wanted:
        return
    found = f"{driver.words} for CUDA {driver.cuda[0]}.{driver.cuda[1]} at most"
    oldest = f", {OLDEST_DRIVERS[wanted]} or newer" if wanted in OLDEST_DRIVERS else ""
    raise DriverError(
        f"the NVIDIA driver of this machine is too old for its PyTorch, which is built for CUDA {torch_cuda}\n"
        f"  found: {found}\n"
        f"  want:  a driver for CUDA {wanted}{oldest}; "
        f"or a PyTorch built for CUDA {driver.cuda[0]} (its wheels are named cu{driver.cuda[0]}…)\n"
        f"  to run on the CPU nevertheless: CUDA_VISIBLE_DEVICES="
    )


def log_why_no_gpu(
    driver: NvidiaDriver, *, torch_cuda: str | None, environment: Mapping[str, str] = os.environ
) -> None:
    """Warns if there is an NVIDIA GPU that torch does not see, with the reason; what was asked for is no warning."""
    if not driver.devices:
        if driver.version:
            logger.info("the machine has NVIDIA's %s, but no GPU was given to this process", driver.words)
        return
    shown = ", ".join(driver.devices)
    if _hidden(environment):
        logger.info("CUDA_VISIBLE_DEVICES hides the GPUs of this machine (%s)", shown)
    elif torch_cuda is None:
        logger.warning("%s: this PyTorch is built without CUDA, so the GPU is not used", shown)
    elif driver.closed:
        logger.warning("%s: this user may not open it, so the GPU is not used", ", ".join(driver.closed))
    elif driver.cuda is None:
        logger.warning("%s: %s is not here, so the GPU is not used: install the driver's library", shown, LIBRARY)
    else:
        logger.warning("%s: %s is there, but PyTorch sees no GPU; nvidia-smi may say why", shown, driver.words)


def _hidden(environment: Mapping[str, str]) -> bool:
    """Whether the user wants no GPU to be seen."""
    visible = environment.get("CUDA_VISIBLE_DEVICES")
    return visible is not None and visible.strip() in ("", "-1", "NoDevFiles")


def _cuda_of(library: Callable[[str], ctypes.CDLL]) -> tuple[int, int] | None:
    """The newest CUDA of the driver's library, which need not be initialised for that; None if there is none."""
    version = ctypes.c_int()
    try:
        failed = library(LIBRARY).cuDriverGetVersion(ctypes.byref(version))
    except (OSError, AttributeError):
        return None
    return None if failed or not version.value else (version.value // 1000, version.value % 1000 // 10)
