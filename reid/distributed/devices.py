"""Which GPUs, or how many processes on the CPU, a task runs on, and how a training uses them.

A device is a string as torch names it: "cpu", or "cuda:0" for the first GPU.
"""

import importlib.util
import logging
import os
import re
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.distributed.driver import log_why_no_gpu, read_driver, refuse_old_driver
from reid.errors import SpecError

logger = logging.getLogger(__name__)

AUTO, CPU = "auto", "cpu"


def first_device() -> str:
    """The first GPU that torch sees, else the CPU. Raises DriverError if the GPU's driver is too old."""
    import torch

    refuse_old_driver(read_driver(), torch_cuda=torch.version.cuda)
    return "cuda:0" if torch.cuda.is_available() else CPU


def gpu_number(device: str) -> int:
    """The number of a GPU that torch names cuda:<number>; SpecError if the device is no such name."""
    found = re.fullmatch(r"cuda:(\d+)", device)
    if not found:
        raise SpecError(f"device: {device} is no device\n  want: auto, cpu, or a GPU as cuda:0")
    return int(found[1])


def choose_gpus(num_gpus: int, gpu_ids: Sequence[int]) -> tuple[int, ...]:
    """The GPUs that both fields together ask for, ascending: those of gpu_ids, and free ones up to num_gpus."""
    chosen = list(dict.fromkeys(gpu_ids))
    free = (gpu for gpu in range(num_gpus + len(chosen)) if gpu not in chosen)
    while len(chosen) < num_gpus:
        chosen.append(next(free))
    return tuple(sorted(chosen))


def choose_devices(section: str, *, num_gpus: int, gpu_ids: Sequence[int], cpu_processes: int) -> tuple[str, ...]:
    """The device of each rank, as the spec's `section` asks for it.

    If this machine has no GPU, that is the CPU for each of cpu_processes ranks. Raises SpecError if a wanted GPU is not
    there, DriverError if the GPUs' driver is too old.
    """
    import torch

    driver, torch_cuda = read_driver(), torch.version.cuda
    refuse_old_driver(driver, torch_cuda=torch_cuda)
    present = torch.cuda.device_count()
    if not present:
        log_why_no_gpu(driver, torch_cuda=torch_cuda)
        logger.info("no GPU here: running on the CPU%s", f", {cpu_processes} processes" if cpu_processes > 1 else "")
        return ("cpu",) * cpu_processes
    wanted = choose_gpus(num_gpus, gpu_ids)
    absent = [gpu for gpu in wanted if gpu >= present]
    if absent:
        raise SpecError(
            f"{section}.num_gpus, {section}.gpu_ids: GPUs {list(wanted)} are asked for, "
            f"{len(absent)} of them are not there\n"
            f"  found: {present} (0..{present - 1})\n  want: at most {present}, e.g. {section}.num_gpus={present}"
        )
    return tuple(f"cuda:{gpu}" for gpu in wanted)


def too_many_images(field: str, device: str, images: int, error: Exception) -> SpecError:
    """The error to raise if a batch, whose size a field of the spec decides, does not fit into a GPU's memory."""
    found = ". ".join(str(error).split(". ")[:3])  # the memory wanted and free, without torch's advice
    return SpecError(
        f"{field}: the memory of {device} does not suffice for {images} images at once\n"
        f"  found: {found}\n  want:  a smaller {field}"
    )


def share_the_cpu(devices: Sequence[str]) -> None:
    """Gives this process its share of the cores if several ranks compute on the CPU.

    More threads than cores would be many times slower.
    """
    import torch

    if len(devices) > 1 and devices[0] == CPU:
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))


@dataclass(frozen=True)
class ComputePlan:
    """The devices that a training runs on, and how it uses them."""

    devices: tuple[str, ...]
    """The device of each rank of this machine."""
    precision: str
    """Lightning's name of the precision: 32-true, bf16-mixed or 16-mixed."""
    channels_last: bool = True
    """Whether images lie in memory pixel by pixel (N, H, W, C), not channel by channel."""
    compiled: bool = False
    """Whether torch.compile compiles the network."""
    compile_mode: str = "default"
    """The mode of torch.compile."""
    benchmark: bool = False
    """Whether cuDNN tries its algorithms and keeps the fastest."""
    deterministic: bool = True
    """Whether cuDNN uses only algorithms that give the same numbers every time."""
    augments: bool = False
    """Whether training images are augmented on the devices, not by the CPU."""
    machines: int = 1
    """How many machines train together, each with equally many ranks."""

    @property
    def ranks(self) -> int:
        """How many processes train together."""
        return len(self.devices) * self.machines

    @property
    def on_gpu(self) -> bool:
        """Whether the ranks compute on GPUs."""
        return self.devices[0] != CPU

    def in_words(self) -> str:
        """How the devices are used, for the log."""
        words = [
            f"precision {self.precision}",
            "channels last" if self.channels_last else "channels first",
            f"compiled ({self.compile_mode})" if self.compiled else "not compiled",
        ]
        if self.on_gpu:
            switches = {"benchmark": self.benchmark, "deterministic": self.deterministic}
            words += [f"cudnn.{name} {'on' if value else 'off'}" for name, value in switches.items()]
        return f"{', '.join(words)}; images augmented on the {'device' if self.augments else 'CPU'}"


BF16_SINCE = (8, 0)
"""The compute capability from which on GPUs compute in bf16: that of Ampere."""
FP16_SINCE = (7, 0)
"""The compute capability from which on GPUs have units for products in fp16: that of Volta (V100, T4)."""
PRECISIONS = {"32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
"""The spec's name of a precision -> Lightning's."""


def plan_training(
    devices: tuple[str, ...],
    *,
    precision: str,
    channels_last: str,
    compile: str,
    compile_mode: str,
    compile_above_images: int,
    benchmark: str,
    deterministic: str,
    augment_on: str,
    convolutional: bool,
    images: int,
    machines: int = 1,
) -> ComputePlan:
    """The plan for these devices, which is logged too; each choice is auto or a fixed value, as in the spec.

    With auto a GPU is used in the fastest way, which is not deterministic. images: how many the training sees in all,
    over all epochs; with auto, from compile_above_images on the network is compiled.
    """
    import torch

    on_gpu = devices[0] != CPU
    plan = ComputePlan(
        devices,
        PRECISIONS[fastest_precision(devices) if precision == "auto" else precision],
        channels_last=channels_last == "on" or (channels_last == "auto" and convolutional),
        compiled=compiled(compile, on_gpu=on_gpu, long=images >= compile_above_images),
        compile_mode=mode_of_compile(compile_mode, on_gpu=on_gpu, ranks=len(devices) * machines),
        benchmark=benchmark == "on" or (benchmark == "auto" and on_gpu),
        deterministic=deterministic == "on" or (deterministic == "auto" and not on_gpu),
        augments=augment_on == "device" or (augment_on == "auto" and on_gpu),
        machines=machines,
    )
    if on_gpu:
        shown = ", ".join(f"GPU {gpu_number(name)} ({torch.cuda.get_device_name(name)})" for name in devices)
    else:
        shown = f"the CPU, {torch.get_num_threads()} threads"
        shown += f" in each of {len(devices)} processes" if len(devices) > 1 else ""
    shown += f", on each of {machines} machines" if machines > 1 else ""
    logger.info("training on %s, %s", shown, plan.in_words())
    return plan


def fastest_precision(devices: Sequence[str]) -> str:
    """The spec's name of the fastest precision that all these devices compute in natively.

    A T4 and older GPUs emulate bf16, slower than float32; GPUs older than Volta are no faster in fp16.
    """
    import torch

    if devices[0] == CPU:
        return "32"
    weakest = min(torch.cuda.get_device_capability(name) for name in devices)
    return "bf16" if weakest >= BF16_SINCE else "fp16" if weakest >= FP16_SINCE else "32"


def mode_of_compile(asked: str, *, on_gpu: bool, ranks: int) -> str:
    """The mode of torch.compile: as asked, or with auto CUDA graphs on one GPU and torch's default elsewhere.

    A graph is launched at once. Kernel by kernel the processor launches slower than an H100 computes. The exchanges
    between several GPUs stay outside of graphs.
    """
    if asked != "auto":
        return asked
    return "reduce-overhead" if on_gpu and ranks == 1 else "default"


def compiled(asked: str, *, on_gpu: bool, long: bool) -> bool:
    """Whether the network is compiled: as asked, or with auto for a long training on a GPU. Logs what is missing."""
    if asked == "off" or (asked == "auto" and not (on_gpu and long)):
        return False
    compilers = [os.environ.get("CXX" if not on_gpu else "CC", ""), "c++", "g++", "clang++", "cc", "gcc", "clang"]
    lacking = [] if any(shutil.which(name) for name in compilers if name) else ["a C++ compiler"]
    if on_gpu and not importlib.util.find_spec("triton"):
        lacking.append("triton")
    if on_gpu and not Path(sysconfig.get_path("include"), "Python.h").exists():
        lacking.append("Python.h (python3-dev)")  # triton compiles its launcher against it
    if lacking:
        logger.warning("train.compile: without %s the network is not compiled", " and ".join(lacking))
    return not lacking
