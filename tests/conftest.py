"""Ctrl-C reaches what the tests start, also where the tests themselves were started in the background of a shell.

And a GPU that is none, for tests of what needs one.
"""

import importlib
import inspect
import signal
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from reid.deploy import gpu
from tests.faults import table
from tests.on_cpu import build_driver

# A background job of a shell without job control ignores SIGINT, and its children inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Ends with what came of each fault (tests/faults)."""
    table.show(terminalreporter)


@pytest.fixture(autouse=True, scope="session")
def kfp_finds_no_sources() -> Iterator[None]:
    """Makes compiling a pipeline as fast here as it is for a user, who has fewer modules and a shorter stack.

    With each setting of a task, kfp asks inspect.stack() for the caller's name, for an error's text. That also looks
    for the source of each frame in all loaded modules, which takes seconds for one pipeline after some thousand tests.
    """
    whole = inspect.stack

    def stack(context: int = 1) -> list[Any]:
        frame = sys._getframe(1)
        if frame.f_globals.get("__name__") != "kfp.dsl.pipeline_task":
            return whole(context)[1:]
        setting = frame.f_back
        assert setting
        return [("", "", 0, function) for function in (frame.f_code.co_name, setting.f_code.co_name)]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(inspect, "stack", stack)
        yield


@pytest.fixture
def gpu_of_c(tmp_path_factory, monkeypatch):
    """This machine has a GPU that computes on the CPU, and no TensorRT for it."""
    monkeypatch.setattr(gpu, "DRIVER", str(build_driver(tmp_path_factory.getbasetemp())))
    monkeypatch.setitem(sys.modules, "tensorrt", None)


@pytest.fixture
def on_cpu(gpu_of_c, monkeypatch):
    """This machine has a GPU and TensorRT 11, both of which compute on the CPU."""
    monkeypatch.setitem(sys.modules, "tensorrt", importlib.import_module("tests.on_cpu.tensorrt"))
