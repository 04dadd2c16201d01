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

from reid.errors import SpecError

logger = logging.getLogger(__name__)

AUTO, CPU = "auto", "cpu"


def first_device() -> str:
    """The first GPU of this machine that torch sees, else the CPU."""
    import torch

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
    there.
    """
    import torch

    present = torch.cuda.device_count()
    if not present:
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
    """Lightning's name of the precision: 32-true or bf16-mixed."""
    channels_last: bool = True
    """Whether images lie in memory pixel by pixel (N, H, W, C), not channel by channel."""
    compiled: bool = False
    """Whether torch.compile compiles the network."""
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

    @property
    def compile_mode(self) -> str | None:
        """The mode of torch.compile: with CUDA graphs on one GPU, torch's default (None) elsewhere.

        A graph is launched at once. Kernel by kernel the processor launches slower than an H100 computes.
        """
        return "reduce-overhead" if self.on_gpu and self.ranks == 1 else None


BF16_SINCE = (8, 0)
"""The compute capability from which on GPUs compute in bf16: that of Ampere."""
LONG_IMAGES = 400_000
"""A training on a GPU must see so many images to win back the time that torch.compile takes: 47 s with ResNet-50 on an
H100, for 6,400 images/s in place of 3,440. On a CPU it wins nothing over channels_last (9.8 images/s to 10.0).
"""


def plan_training(
    devices: tuple[str, ...],
    *,
    precision: str,
    channels_last: str,
    compile: str,
    augment_on: str,
    convolutional: bool,
    images: int,
    machines: int = 1,
) -> ComputePlan:
    """The plan for these devices, which is logged too; each choice is auto or a fixed value, as in the spec.

    images: how many the training sees in all, over all epochs.
    """
    import torch

    on_gpu = devices[0] != CPU
    halved = precision == "bf16" or (precision == "auto" and on_gpu and _has_bf16(devices))
    plan = ComputePlan(
        devices,
        "bf16-mixed" if halved else "32-true",
        channels_last=channels_last == "on" or (channels_last == "auto" and convolutional),
        compiled=compiled(compile, on_gpu=on_gpu, images=images, ranks=len(devices) * machines),
        augments=augment_on == "device" or (augment_on == "auto" and on_gpu),
        machines=machines,
    )
    if on_gpu:
        shown = ", ".join(f"GPU {gpu_number(name)} ({torch.cuda.get_device_name(name)})" for name in devices)
    else:
        shown = f"the CPU, {torch.get_num_threads()} threads"
        shown += f" in each of {len(devices)} processes" if len(devices) > 1 else ""
    shown += f", on each of {machines} machines" if machines > 1 else ""
    logger.info(
        "training on %s, precision %s, %s, %s; images augmented on the %s",
        shown,
        plan.precision,
        "channels last" if plan.channels_last else "channels first",
        "compiled" if plan.compiled else "not compiled",
        "device" if plan.augments else "CPU",
    )
    return plan


def _has_bf16(devices: Sequence[str]) -> bool:
    """Whether all these GPUs compute in bf16 natively: a T4 and older ones emulate it, slower than float32."""
    import torch

    return all(torch.cuda.get_device_capability(name) >= BF16_SINCE for name in devices)


def compiled(asked: str, *, on_gpu: bool, images: int, ranks: int) -> bool:
    """Whether the network is compiled for so many images: as asked, or with auto if it pays. Logs what is missing.

    With auto several ranks do not compile: SyncBatchNorm cuts the network into some fifty graphs (pytorch issue
    161302).
    """
    if asked == "off" or (asked == "auto" and not (on_gpu and ranks == 1 and images >= LONG_IMAGES)):
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
