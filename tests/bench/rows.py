"""A row of the bench's table, and how it is timed. Each bench file has `measure() -> list of rows`, plain dicts:

part, what      where the row stands, and what was done
value, unit     seconds ("s": less is better) or a rate ("images/s", "GFLOP/s": more is better)
textbook        the same figure of the formula or transforms in every textbook, and `textbook_is`, its name
limit           the same figure of the least that must be done, and `limit_is`
peak_gb, note   memory of the process at its highest; anything else worth a word
"""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
Row = dict[str, Any]


def row(part: str, what: str, value: float | None, unit: str, **more: Any) -> Row:
    """One row; `more` are the other keys of the table above."""
    return {"part": part, "what": what, "value": value, "unit": unit, **more}


def ratio(found: Row, other: str) -> float | None:
    """How fast the value is over the textbook's or the limit's; above 1 is faster than that. None where it has none."""
    if not found.get(other) or not found["value"]:
        return None
    as_many: float = found["value"] / found[other]
    return 1 / as_many if found["unit"] in ("s", "ms") else as_many


def seconds(work: Callable[[], object], *, repeat: int = 3, warm: int = 1) -> float:
    """The best of some times, after the first calls, which may compile."""
    for _ in range(warm):
        work()
    taken = []
    for _ in range(repeat):
        began = time.perf_counter()
        work()
        taken.append(time.perf_counter() - began)
    return min(taken)


def peak_gb() -> float:
    """The highest that this process's memory ever was."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


def in_a_process(module: str, case: dict[str, Any], **environment: str) -> Any:
    """The JSON that `python -m module CASE` prints last: its own process, so that its peak memory is its own."""
    done = subprocess.run(
        [sys.executable, "-m", module, json.dumps(case)],
        cwd=ROOT,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])
