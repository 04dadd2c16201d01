"""Which GPUs, or how many processes on the CPU, a task runs on, and how a training uses them."""

import importlib.util
import logging
import os
import shutil
import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.errors import SpecError

logger = logging.getLogger(__name__)


def choose_gpus(num_gpus: int, gpu_ids: Sequence[int]) -> tuple[int, ...]:
    """The GPUs that both fields together ask for: the one with more wins; chosen ids are kept, free ones added."""
    chosen = list(dict.fromkeys(gpu_ids))
    free = (gpu for gpu in range(num_gpus + len(chosen)) if gpu not in chosen)
    while len(chosen) < num_gpus:
        chosen.append(next(free))
    return tuple(sorted(chosen))


def choose_devices(section: str, *, num_gpus: int, gpu_ids: Sequence[int], cpu_processes: int) -> tuple[str, ...]:
    """A device for each rank, as torch names it; `section` of the spec asks for them.

    Without any GPU on this machine: the CPU, for cpu_processes ranks. SpecError where a wanted GPU is not there.
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
    """What to say where a GPU's memory runs out in a batch whose size a field of the spec decides."""
    found = ". ".join(str(error).split(". ")[:3])  # what was wanted and was free, not the advice behind it
    return SpecError(
        f"{field}: the memory of {device} does not suffice for {images} images at once\n"
        f"  found: {found}\n  want:  a smaller {field}"
    )


def share_the_cpu(devices: Sequence[str]) -> None:
    """Gives this process its part of the CPU, where several ranks compute on it; more threads than cores crawl."""
    import torch

    if len(devices) > 1 and devices[0] == "cpu":
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // len(devices)))


@dataclass(frozen=True)
class Device:
    """Where and how a training runs."""

    names: tuple[str, ...]
    """A device for each rank: cuda:<n>, or cpu."""
    precision: str
    """As Lightning names it: 32-true or bf16-mixed."""
    channels_last: bool = True
    compiled: bool = False
    augments: bool = False
    """Whether it augments the training images."""

    @property
    def ranks(self) -> int:
        """Processes that train together."""
        return len(self.names)

    @property
    def on_gpu(self) -> bool:
        """Whether the ranks are GPUs."""
        return self.names[0] != "cpu"


BF16_SINCE = (8, 0)
"""Compute capability of the first GPUs with bf16: Ampere."""
LONG_IMAGES = 400_000
"""On a GPU, images from which on a training wins back the minute or two that torch.compile takes; on a CPU it wins
nothing over channels_last (ResNet-50: 9.8 images/s to 10.0).
"""


def choose_device(
    names: tuple[str, ...],
    *,
    precision: str,
    channels_last: str,
    compile: str,
    augment_on: str,
    convolutional: bool,
    images: int,
) -> Device:
    """How these devices are used; each choice is auto, or what it is to be. Named in the log.

    images: to be trained on in all, epoch after epoch.
    """
    import torch

    on_gpu = names[0] != "cpu"
    halved = precision == "bf16" or (precision == "auto" and on_gpu and _has_bf16(names))
    device = Device(
        names,
        "bf16-mixed" if halved else "32-true",
        channels_last=channels_last == "on" or (channels_last == "auto" and convolutional),
        compiled=compiled(compile, on_gpu=on_gpu, images=images, ranks=len(names)),
        augments=augment_on == "device" or (augment_on == "auto" and on_gpu),
    )
    if on_gpu:
        shown = ", ".join(f"GPU {name.removeprefix('cuda:')} ({torch.cuda.get_device_name(name)})" for name in names)
    else:
        shown = f"the CPU, {torch.get_num_threads()} threads"
        shown += f" in each of {device.ranks} processes" if device.ranks > 1 else ""
    logger.info(
        "training on %s, precision %s, %s, %s; images augmented on the %s",
        shown,
        device.precision,
        "channels last" if device.channels_last else "channels first",
        "compiled" if device.compiled else "not compiled",
        "device" if device.augments else "CPU",
    )
    return device


def _has_bf16(names: Sequence[str]) -> bool:
    """Whether every one of these GPUs computes in bf16 itself: a T4 and older ones emulate it, slower than float32."""
    import torch

    return all(torch.cuda.get_device_capability(name) >= BF16_SINCE for name in names)


def compiled(asked: str, *, on_gpu: bool, images: int, ranks: int) -> bool:
    """Whether the network is compiled for so many images: as asked, or by itself where it pays; else a line why not.

    Not by itself for several ranks: SyncBatchNorm cuts the network into some fifty graphs (pytorch issue 161302).
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
