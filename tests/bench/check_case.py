"""A row of `make gpu-check`: how it is measured, and what its lines say."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.bench.check_place import Place

Facts = dict[str, Any]
"""Plain values: they come out of a process of their own."""
Line = dict[str, Any]


def line(what: str, value: float | None, unit: str = "", **more: Any) -> Line:
    """A line of the table: value, twin and twin_is, ok (None: nothing to hold it to), note."""
    return {"what": what, "value": value, "unit": unit, "ok": None, "note": "", **more}


@dataclass(frozen=True)
class Case:
    """A row: how it is measured, on the GPU and perhaps on the CPU beside it, and what is said of both."""

    measure: Callable[[Place], Facts]
    lines: Callable[[Facts, Facts], list[Line]]
    """(the GPU's facts, the CPU's or none) -> its lines."""
    twin: bool = False
    limit_s: float = 60.0
    timed: bool = False
    """Its rates count: no other row runs beside it."""
