"""Ctrl-C reaches what the tests start, also where the tests themselves were started in the background of a shell.

And a GPU that is none, for tests of what needs one.
"""

import importlib
import signal
import sys

import pytest

from reid.deploy import gpu
from tests.faults import table
from tests.on_cpu import build_driver

# A background job of a shell without job control ignores SIGINT, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ends with what came of each fault (tests/faults)."""
    table.show(terminalreporter)


@pytest.fixture
def gpu_of_c(tmp_path_factory, monkeypatch):
    """This machine has a GPU that computes on the CPU, and no TensorRT for it."""
    monkeypatch.setattr(gpu, "DRIVER", str(build_driver(tmp_path_factory.getbasetemp())))
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def on_cpu(gpu_of_c, monkeypatch):
    """This machine has a GPU and TensorRT 11, both of which compute on the CPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", importlib.import_module("tests.on_cpu.tensorrt"))
