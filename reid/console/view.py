"""Shows the work of a command of `reid`: its log lines, and how far it is."""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from reid.console.live import COUNT, LiveLines

PROGRESS = "reid.progress"


class LogView(logging.Handler):
    """Shows log records as lines on a stream, those of reid.console.progress as a line that moves."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._lines = LiveLines(stream, clock=clock)
        self._moving = ""
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one record."""
        text = record.getMessage()
        count = COUNT.fullmatch(text) if record.name == PROGRESS else None
        if count is None or count["what"] != self._moving:
            self._lines.end(self._moving)
        if count is None:
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            time_of_day, _, text = self.format(record).partition(" ")
            self._lines.write(f"{time_of_day} {level}{text}")
        else:
            self._moving = count["what"]
            self._lines.progress(self._moving, text, plain=self.format(record))
            self._lines.redraw(now=True)

    def close(self) -> None:
        """Removes the moving line from the terminal."""
        self._lines.close()
        super().close()


@contextmanager
def shown_on(stream: TextIO) -> Iterator[None]:
    """Shows the log on the stream while the block runs: this project's records, and others' from warnings up."""
    view, root, project = LogView(stream), logging.getLogger(), logging.getLogger("reid")
    before = root.level, project.level
    root.addHandler(view)
    root.setLevel(logging.WARNING)
    project.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(view)
        root.setLevel(before[0])
        project.setLevel(before[1])
        view.close()
