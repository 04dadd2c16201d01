"""A driver that PyTorch cannot use, as files and a library of a pretended machine."""

import ctypes
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from reid.distributed import devices
from reid.distributed.driver import NvidiaDriver, log_why_no_gpu, read_driver, refuse_old_driver
from reid.errors import DriverError

CLOSED = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  570.124.06  Wed Feb 26 01:56:32 UTC 2026\nGCC version: 12\n"
OPEN = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  580.65.06  Release Build  (dvs-builder)\n"
OLD = NvidiaDriver((12, 8), "570.124.06", ("/dev/nvidia0",), ())


def library(version: int, status: int = 0) -> Callable[[str], Any]:
    """A driver's library that knows its newest CUDA."""

    class Library:
        def cuDriverGetVersion(self, into: Any) -> int:
            ctypes.cast(into, ctypes.POINTER(ctypes.c_int))[0] = version
            return status

    return lambda name: Library() if name == "libcuda.so.1" else None


def no_library(name: str) -> Any:
    raise OSError(f"{name}: cannot open shared object file")


def machine(root: Path, *devices: str, version: str = "") -> Path:
    (root / "dev").mkdir()
    for name in devices:
        (root / "dev" / name).touch()
    if version:
        file = root / "proc" / "driver" / "nvidia" / "version"
        file.parent.mkdir(parents=True)
        file.write_text(version)
    return root


@pytest.mark.parametrize(("text", "number"), [(CLOSED, "570.124.06"), (OPEN, "580.65.06"), ("", "")])
def test_the_driver_is_read_from_the_system_and_its_library(tmp_path, text, number):
    root = machine(tmp_path, "nvidia1", "nvidia0", "nvidiactl", "nvidia-uvm", version=text)
    found = read_driver(root, library=library(12080), may_open=lambda path, _: path.name == "nvidia1")
    files = str(root / "dev" / "nvidia0"), str(root / "dev" / "nvidia1")
    assert found == NvidiaDriver((12, 8), number, files, files[:1])


@pytest.mark.parametrize("absent", [no_library, library(0), library(13000, status=999), lambda _: object()])
def test_a_machine_without_a_driver_has_none(tmp_path, absent):
    assert read_driver(machine(tmp_path), library=absent) == NvidiaDriver(None, "", (), ())


def test_a_gpu_of_windows_counts_as_one(tmp_path):
    assert read_driver(machine(tmp_path, "dxg"), library=library(13000)).devices == (str(tmp_path / "dev" / "dxg"),)


def test_a_driver_too_old_for_torch_is_refused_in_a_sentence():
    with pytest.raises(DriverError) as error:
        refuse_old_driver(OLD, torch_cuda="13.0", environment={"CUDA_VISIBLE_DEVICES": "0"})
    assert str(error.value) == (
        "the NVIDIA driver of this machine is too old for its PyTorch, which is built for CUDA 13.0\n"
        "  found: driver 570.124.06 for CUDA 12.8 at most\n"
        "  want:  a driver for CUDA 13, R580 or newer; or a PyTorch built for CUDA 12 (its wheels are named cu12…)\n"
        "  to run on the CPU nevertheless: CUDA_VISIBLE_DEVICES="
    )
    assert error.value.exit_status == 2


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "environment"),
    [
        (OLD, "12.9", {}),  # a driver runs all minor versions
        (OLD, "11.8", {}),
        (OLD, None, {}),
        (OLD, "13.0", {"CUDA_VISIBLE_DEVICES": ""}),
        (NvidiaDriver((12, 8), "570.124.06", (), ()), "13.0", {}),  # a container that was given no GPU
        (NvidiaDriver(None, "", (), ()), "13.0", {}),
    ],
)
def test_other_drivers_are_not_refused(driver, torch_cuda, environment):
    refuse_old_driver(driver, torch_cuda=torch_cuda, environment=environment)


@pytest.mark.parametrize(
    ("driver", "torch_cuda", "environment", "said"),
    [
        (NvidiaDriver(None, "", (), ()), "13.0", {}, []),
        (
            NvidiaDriver(None, "580.65", (), ()),
            "13.0",
            {},
            [("INFO", "the machine has NVIDIA's driver 580.65, but no GPU was given to this process")],
        ),
        (
            OLD,
            "13.0",
            {"CUDA_VISIBLE_DEVICES": "-1"},
            [("INFO", "CUDA_VISIBLE_DEVICES hides the GPUs of this machine (/dev/nvidia0)")],
        ),
        (
            OLD,
            None,
            {},
            [("WARNING", "/dev/nvidia0: this PyTorch is built without CUDA, so the GPU is not used")],
        ),
        (
            NvidiaDriver((13, 0), "580.65", ("/dev/nvidia0",), ("/dev/nvidia0",)),
            "13.0",
            {},
            [("WARNING", "/dev/nvidia0: this user may not open it, so the GPU is not used")],
        ),
        (
            NvidiaDriver(None, "580.65", ("/dev/nvidia0",), ()),
            "13.0",
            {},
            [
                (
                    "WARNING",
                    "/dev/nvidia0: libcuda.so.1 is not here, so the GPU is not used: install the driver's library",
                )
            ],
        ),
        (
            NvidiaDriver((13, 0), "580.65", ("/dev/nvidia0",), ()),
            "13.0",
            {},
            [
                (
                    "WARNING",
                    "/dev/nvidia0: driver 580.65 is there, but PyTorch sees no GPU; nvidia-smi may say why",
                )
            ],
        ),
    ],
)
def test_why_torch_sees_no_gpu_is_said(caplog, driver, torch_cuda, environment, said):
    with caplog.at_level(logging.INFO):
        log_why_no_gpu(driver, torch_cuda=torch_cuda, environment=environment)
    assert [(record.levelname, record.message) for record in caplog.records] == said


def test_a_task_asks_before_it_chooses_its_devices(monkeypatch):
    monkeypatch.setattr(devices, "read_driver", lambda: OLD)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)  # NVML counts it all the same
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(DriverError):
        devices.choose_devices("train", num_gpus=1, gpu_ids=[], cpu_processes=1)
    with pytest.raises(DriverError):
        devices.first_device()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert devices.choose_devices("train", num_gpus=1, gpu_ids=[], cpu_processes=2) == ("cpu", "cpu")
