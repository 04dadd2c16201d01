"""A stand-in for the two things that need a GPU: NVIDIA's driver (driver.c) and its TensorRT (tensorrt.py)."""

import subprocess
from pathlib import Path


def build_driver(folder: Path) -> Path:
    """driver.c as a shared library in the folder; built once."""
    library = folder / "driver.so"
    if not library.exists():
        source = Path(__file__).parent / "driver.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    return library
