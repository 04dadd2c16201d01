"""Ctrl-C reaches what the tests start, also where the tests themselves were started in the background of a shell.

And a GPU that is none, for tests of what needs one.
"""

import importlib
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from reid.deploy import gpu

# A background job of a shell without job control ignores SIGINT, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def on_cpu(tmp_path_factory, monkeypatch):
    """This machine has a GPU and TensorRT 11, both of which compute on the CPU."""
    library = tmp_path_factory.getbasetemp() / "driver.so"
    if not library.exists():
        source = Path(__file__).parent / "on_cpu" / "driver.c"
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", library, source], check=True)
    monkeypatch.setattr(gpu, "DRIVER", str(library))
    monkeypatch.setitem(sys.modules, "tensorrt", importlib.import_module("tests.on_cpu.tensorrt"))
