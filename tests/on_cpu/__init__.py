"""A stand-in for the two things that need a GPU: NVIDIA's driver (driver.c) and its TensorRT (tensorrt.py)."""

import shutil
import subprocess
from pathlib import Path

import pytest


def build_driver(folder: Path) -> Path:
    """driver.c as a shared library in the folder; built once, and loudly skipped without a C compiler."""
    library, compiler = folder / "driver.so", shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("THE ENGINE RUNNER IS NOT TRIED: no C compiler to build the stand-in for the driver")
    if not library.exists():
        source = Path(__file__).parent / "driver.c"
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library
