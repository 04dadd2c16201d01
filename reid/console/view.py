"""What a command shows: log lines, how far it is, and the closing table.

On a terminal the progress is one line with a bar, rewritten in place; elsewhere (a file, a pipe, CI) plain lines, at
most one per kind of work every ten seconds.
"""

import logging
import re
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TextIO

PROGRESS = "reid.progress"
FAR = re.compile(r"(?P<what>.+?): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+)(?P<rest>.*)")
"""A line of reid.console.progress: training: 640/1280 images · epoch 1/2 · 120 images/s · 5s left."""
DOT = " · "
ERASE_LINE = "\r\x1b[2K"
PLAIN_INTERVAL_S = 10.0
BAR_COLUMNS = 24
SHARE = re.compile(r"(.*_)?(mAP|mINP|rank\d+|accuracy)")
"""Figures that are fractions of 1, shown in percent."""


class Console(logging.Handler):
    """Log records as lines on a stream, those of reid.console.progress as one line that moves."""

    def __init__(self, stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._stream, self._clock = stream, clock
        self._terminal = stream.isatty()
        self._drawn = False
        self._said: dict[str, float] = {}
        self.setFormatter(logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S"))

    def emit(self, record: logging.LogRecord) -> None:
        """Shows one record."""
        far = FAR.fullmatch(record.getMessage()) if record.name == PROGRESS else None
        if far is None:
            self.erase()
            level = f"{record.levelname.lower()}: " if record.levelno >= logging.WARNING else ""
            time_of_day, _, text = self.format(record).partition(" ")
            self._write(f"{time_of_day} {level}{text}\n")
        elif self._terminal:
            self._write(ERASE_LINE + fitted(_with_bar(far), shutil.get_terminal_size().columns - 1))
            self._drawn = True
        elif self._clock() - self._said.get(far["what"], -PLAIN_INTERVAL_S) >= PLAIN_INTERVAL_S:
            self._said[far["what"]] = self._clock()
            self._write(f"{self.format(record)}\n")

    def erase(self) -> None:
        """Takes the progress line away."""
        if self._drawn:
            self._write(ERASE_LINE)
            self._drawn = False

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def _with_bar(far: re.Match[str]) -> str:
    share = int(far["done"]) / max(int(far["total"]), 1)
    filled = round(BAR_COLUMNS * min(share, 1.0))
    return f"{far['what']}  {'█' * filled}{'░' * (BAR_COLUMNS - filled)}  {100 * share:.0f} %{far['rest']}"


def fitted(text: str, columns: int) -> str:
    """The text in at most `columns`: its parts go from the middle first, for the last of them is the time left."""
    parts = text.split(DOT)
    while len(DOT.join(parts)) > columns and len(parts) > 2:
        del parts[(len(parts) - 1) // 2]
    line = DOT.join(parts)
    return line if len(line) <= columns else line[: columns - 1] + "…"


@contextmanager
def shown_on(stream: TextIO) -> Iterator[None]:
    """Logging goes to the stream while the block runs: all of this project's, of others warnings only."""
    console, root, ours = Console(stream), logging.getLogger(), logging.getLogger("reid")
    before = root.level, ours.level
    root.addHandler(console)
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.INFO)
    logging.captureWarnings(True)
    try:
        yield
    finally:
        logging.captureWarnings(False)
        root.removeHandler(console)
        root.setLevel(before[0])
        ours.setLevel(before[1])
        console.erase()


def show_outcome(stream: TextIO, title: str, metrics: Mapping[str, float], lines: Sequence[str]) -> None:
    """The closing table of a task, and its sentences; without frames and colours where the stream is no terminal."""
    rows = [(name, figure(name, value)) for name, value in metrics.items()]
    if stream.isatty():
        from rich.console import Console as RichConsole
        from rich.table import Table

        table = Table("figure", title=title, title_justify="left")
        table.add_column("value", justify="right")
        for row in rows:
            table.add_row(*row)
        RichConsole(file=stream).print(table)
    else:
        width = max((len(name) for name, _ in rows), default=0)
        stream.write(f"{title}\n" + "".join(f"  {name:<{width}}  {value:>12}\n" for name, value in rows))
    stream.write("".join(f"{line}\n" for line in lines))
    stream.flush()


def figure(name: str, value: float) -> str:
    """A figure as a person reads it; shares such as mAP in percent."""
    if SHARE.fullmatch(name):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:.6g}"
