"""What a run shows while it runs: a line for each start and end, and how far the running stages are.

On a terminal that is one line, rewritten in place; elsewhere (a file, CI) plain lines, at most one per stage every
ten seconds.
"""

import shutil
import time
from collections.abc import Callable
from typing import TextIO

from reid.console.view import ERASE_LINE, fitted

PLAIN_INTERVAL_S = 10.0
REDRAW_INTERVAL_S = 0.2
BETWEEN = "  |  "


def duration(seconds: float) -> str:
    """Seconds as a person says them: 0.4s, 8s, 2m05s, 1h03m."""
    if seconds < 1:
        return f"{seconds:.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Display:
    """Lines about stages, on a terminal or in a file."""

    def __init__(self, stream: TextIO, *, width: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`width` is that of the column of stage names."""
        self._stream, self._width, self._clock = stream, width, clock
        self._terminal = stream.isatty()
        self._running: dict[str, tuple[float, str]] = {}
        self._said: dict[str, float] = {}
        self._drawn_at = 0.0
        self._status_shown = False

    def say(self, stage: str, text: str) -> None:
        """A line that stays."""
        self._erase()
        self._stream.write(f"{stage:<{self._width}}  {text}\n")
        self._stream.flush()

    def started(self, stage: str, text: str) -> None:
        """The stage runs from now on."""
        self._running[stage] = (self._clock(), "")
        self._said[stage] = self._clock()
        self.say(stage, text)

    def ended(self, stage: str, text: str) -> None:
        """The stage no longer runs."""
        self._running.pop(stage, None)
        self.say(stage, text)

    def progress(self, stage: str, text: str) -> None:
        """How far a running stage is."""
        started, _ = self._running[stage]
        self._running[stage] = (started, text.removeprefix(f"{stage}: "))
        if not self._terminal and self._clock() - self._said[stage] >= PLAIN_INTERVAL_S:
            self._said[stage] = self._clock()
            self.say(stage, self._running[stage][1])

    def tick(self) -> None:
        """Redraws the status line; to be called often."""
        if not self._terminal or not self._running or self._clock() - self._drawn_at < REDRAW_INTERVAL_S:
            return
        self._drawn_at = self._clock()
        room = (shutil.get_terminal_size().columns - 1 - len(BETWEEN) * (len(self._running) - 1)) // len(self._running)
        parts = [
            fitted(f"{stage}  {text or 'running ' + duration(self._clock() - started)}", room)
            for stage, (started, text) in self._running.items()
        ]
        self._stream.write(ERASE_LINE + BETWEEN.join(parts))
        self._stream.flush()
        self._status_shown = True

    def _erase(self) -> None:
        if self._status_shown:
            self._stream.write(ERASE_LINE)
            self._status_shown = False
