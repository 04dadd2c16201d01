"""A `reid` task watched from outside: its log with the time of each line, and how busy the GPU was meanwhile."""

import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.bench.rows import ROOT

SETTLING = 2
"""Epochs at the start that compile and warm up: no rate is taken from them."""
SAMPLE_S = 0.25
EPOCH_END = re.compile(r"\bepoch (\d+)/\d+: ")
"""The line at an epoch's very end, after its validation and checkpoint."""
NOT_COMPILED = "WON'T CONVERT"
"""What torch says of a part of the network that it could not compile; it runs as it is then."""
TRAINING_ON = re.compile(r"\btraining on .*?, (precision .*)")
Timed = list[tuple[float, str]]
"""Lines with the second of time.monotonic at which they came."""


@dataclass
class Watched:
    """What was seen of a task."""

    seconds: float = 0.0
    """From start to end of its process."""
    log: Timed = field(default_factory=list)
    utilization: Timed = field(default_factory=list)
    """nvidia-smi's answers."""


def watched(task: str, spec: Path, overrides: Sequence[str], *, gpu: str) -> Watched:
    """Runs `reid TASK -e spec overrides`, its log on our stderr; RuntimeError with its end where it fails.

    gpu: as nvidia-smi takes it, a number or a UUID.
    """
    seen, done = Watched(), threading.Event()
    command = [sys.executable, "-m", "reid", task, "-e", str(spec), *overrides]
    asking = threading.Thread(target=_ask, args=(gpu, seen.utilization, done), daemon=True)
    began = time.monotonic()
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        asking.start()
        try:
            assert process.stderr is not None
            for line in process.stderr:
                seen.log.append((time.monotonic(), line.rstrip()))
                sys.stderr.write(line)
            process.wait()
        finally:
            process.kill()  # after Ctrl-C; a process that has ended does not mind
            done.set()
            asking.join()
    seen.seconds = time.monotonic() - began
    if process.returncode:
        last = " | ".join(line for _, line in seen.log[-4:])
        raise RuntimeError(f"reid {task}: exit status {process.returncode}: {last}")
    return seen


def _ask(gpu: str, answers: Timed, done: threading.Event) -> None:
    """A process an answer: one that goes on keeps its last answers in a buffer."""
    command = ["nvidia-smi", "-i", gpu, "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits"]
    while not done.wait(SAMPLE_S):
        asked = time.monotonic()
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        except (OSError, subprocess.SubprocessError) as error:
            answer = str(error)
        answers.append((asked, answer.strip()))


def stepping(log: Timed, history: Sequence[dict[str, Any]]) -> tuple[float, float] | None:
    """When the settled epochs began and the last one's last step ended; None where the log does not tell."""
    ends = {int(found[1]): when for when, line in log if (found := EPOCH_END.search(line))}
    before_last = len([row for row in history if row["epoch"] >= 0]) - 1
    if before_last < SETTLING or not {SETTLING, before_last} <= ends.keys():
        return None
    return ends[SETTLING], ends[before_last] + history[-1]["seconds"]


def busy_percent(utilization: Timed, window: tuple[float, float] | None) -> float | None:
    """The mean of nvidia-smi's percentages within the window; None where it gave none, as without it or under MIG."""
    if window is None:
        return None
    within = [float(answer) for when, answer in utilization if window[0] <= when <= window[1] and answer.isdecimal()]
    return sum(within) / len(within) if within else None


def ran_as(log: Timed) -> str:
    """How a training says it runs: precision, layout, compiled or not, where it augments; and what torch gave up."""
    told = next((found[1] for _, line in log if (found := TRAINING_ON.search(line))), "not told how")
    parts = sum(NOT_COMPILED in line for _, line in log)
    return f"{told}; {parts} parts could not be compiled" if parts else told
