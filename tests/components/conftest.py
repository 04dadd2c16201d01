"""A function in the place of a stage."""

import sys
from collections.abc import Callable
from types import ModuleType

import pytest

from reid.stages.outcome import Outcome


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Outcome]], None]:
    """Puts a function in the place of the evaluate stage."""

    def put(function: Callable[..., Outcome]) -> None:
        module = ModuleType("reid.stages.evaluate")
        module.evaluate = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "reid.stages.evaluate", module)

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return put
