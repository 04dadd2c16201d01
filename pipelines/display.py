"""Shows a run while it runs: a line for each stage's start and end, and how far the running stages are."""

import time
from collections.abc import Callable
from types import TracebackType
from typing import TextIO

from reid.console.live import LiveLines


class Display:
    """Lines about stages. Close it, or use it in a `with`, so that no moving line is left on the terminal."""

    def __init__(self, stream: TextIO, *, width: int, clock: Callable[[], float] = time.monotonic) -> None:
        """`width` is that of the column of stage names."""
        self._lines = LiveLines(stream, label_columns=width, clock=clock)

    def __enter__(self) -> "Display":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def say(self, stage: str, text: str) -> None:
        """Writes a line that stays."""
        self._lines.write(text, task=stage)

    def started(self, stage: str, text: str) -> None:
        """Shows that the stage has started."""
        self.say(stage, text)
        self._lines.start(stage)

    def ended(self, stage: str, text: str) -> None:
        """Shows that the stage has ended."""
        self._lines.end(stage)
        self.say(stage, text)

    def progress(self, stage: str, text: str) -> None:
        """Shows how far a running stage is."""
        self._lines.progress(stage, text.removeprefix(f"{stage}: "))

    def tick(self) -> None:
        """Redraws the moving lines; call it often."""
        self._lines.redraw()

    def close(self) -> None:
        """Removes the moving lines from the terminal."""
        self._lines.close()
