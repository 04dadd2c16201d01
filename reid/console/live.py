"""Lines that stay and, below them on a terminal, one moving line for each running task.

On a terminal rich draws the moving lines, with a bar, in the colours that NO_COLOR and the terminal allow. Elsewhere
(a file, a pipe, CI) how far a task is becomes plain lines, at most one per task every ten seconds, and rich is not
loaded.
"""

import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, TextIO

from reid.console.plain import printable
from reid.console.progress import duration

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult
    from rich.live import Live

COUNT = re.compile(r"(?P<what>.+?): (?P<done>\d+)/(?P<total>\d+) (?P<unit>\w+)(?P<rest>.*)")
"""A line of reid.console.progress: training: 640/1280 images · epoch 1/2 · 120 images/s · 5s left."""
DOT = " · "
PLAIN_INTERVAL_S = 10.0
REDRAW_INTERVAL_S = 0.2
BAR_COLUMNS = {100: 24, 0: 12}
"""Least columns of the terminal -> columns of the bar."""


@dataclass
class _Moving:
    """What is known of a running task."""

    started: float
    written: float
    """When its last plain line was written."""
    text: str = ""


class LiveLines:
    """Writes to one stream. Close it, or use it in a `with`, so that no moving line is left on the terminal."""

    def __init__(self, stream: TextIO, *, label_columns: int = 0, clock: Callable[[], float] = time.monotonic) -> None:
        """`label_columns` is the width of the column of task names; 0 shows no names."""
        self._stream, self._label_columns, self._clock = stream, label_columns, clock
        self._terminal = stream.isatty() and os.environ.get("TERM") not in {"dumb", "unknown"}
        self._tasks: dict[str, _Moving] = {}
        self._drawn_at = -REDRAW_INTERVAL_S
        self._live: Live | None = None

    def __enter__(self) -> "LiveLines":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, text: str, *, task: str = "") -> None:
        """Writes a line that stays, with the task's name if there is a column for names."""
        line = self._labelled(task, printable(text))
        if self._live is None:
            self._stream.write(f"{line}\n")
            self._stream.flush()
        else:
            from rich.text import Text

            self._live.console.print(Text(line), soft_wrap=True)

    def start(self, task: str) -> None:
        """Shows the task as running."""
        self._tasks[task] = _Moving(started=self._clock(), written=self._clock())

    def progress(self, task: str, text: str, *, plain: str | None = None) -> None:
        """Shows how far a task is, which need not have been started.

        `plain` is the line to write if there is no terminal, by default the text itself.
        """
        now = self._clock()
        known = self._tasks.setdefault(task, _Moving(started=now, written=now - PLAIN_INTERVAL_S))
        known.text = printable(text)
        if not self._terminal and now - known.written >= PLAIN_INTERVAL_S:
            known.written = now
            self.write(plain or text, task=task)

    def end(self, task: str) -> None:
        """Removes the moving line of a task that has ended."""
        if self._terminal:
            self._tasks.pop(task, None)
        if self._live and not self._tasks:
            self.close()

    def redraw(self, *, now: bool = False) -> None:
        """Draws the moving lines again, at most five times a second; call it often."""
        if not self._terminal or not self._tasks or (not now and self._clock() - self._drawn_at < REDRAW_INTERVAL_S):
            return
        self._drawn_at = self._clock()
        if self._live is None:
            self._live = self._start_live()
        self._live.refresh()

    def close(self) -> None:
        """Removes the moving lines from the terminal."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _start_live(self) -> "Live":
        from rich.live import Live

        from reid.console.tables import rich_console

        console = rich_console(self._stream, interactive=True)
        live = Live(
            self, console=console, auto_refresh=False, transient=True, redirect_stdout=False, redirect_stderr=False
        )
        live.start()
        console.show_cursor(True)  # rich hides it, and after kill -9 nobody would show it again
        return live

    def _labelled(self, task: str, text: str) -> str:
        return f"{task:<{self._label_columns}}  {text}" if self._label_columns else text

    def __rich_console__(self, console: "Console", options: "ConsoleOptions") -> "RenderResult":
        """The moving lines, as rich asks for them."""
        from rich.segment import Segment

        columns = options.max_width - 1
        for task, known in self._tasks.items():
            text = known.text or f"running {duration(self._clock() - known.started)}"
            count = COUNT.fullmatch(text)
            if count is None:
                yield Segment(fitted(self._labelled(task, text), columns))
            else:
                yield from self._with_bar(task, count, columns, console, options)
            yield Segment.line()

    def _with_bar(
        self, task: str, count: re.Match[str], columns: int, console: "Console", options: "ConsoleOptions"
    ) -> "RenderResult":
        from rich.progress_bar import ProgressBar
        from rich.segment import Segment

        done, total = int(count["done"]), max(int(count["total"]), 1)
        width = next(bar for least, bar in BAR_COLUMNS.items() if columns >= least)
        head = self._labelled(task, f"{count['what']}  ")
        progress = ProgressBar(total=total, completed=done, width=width, complete_style="cyan", finished_style="green")
        bar = [*console.render(progress, options.update(width=width))]
        yield Segment(head)
        yield from bar
        blank = " " * (width - Segment.get_line_length(bar))  # without colours rich draws only what is done
        rest = f"  {100 * min(done / total, 1):.0f} %{count['rest']}"
        yield Segment(blank + fitted(rest, max(columns - len(head) - width, 8)))


def fitted(text: str, columns: int) -> str:
    """The text in at most `columns`: its parts go from the middle first, for the last of them is the time left."""
    parts = text.split(DOT)
    while len(DOT.join(parts)) > columns and len(parts) > 2:
        del parts[(len(parts) - 1) // 2]
    line = DOT.join(parts)
    return line if len(line) <= columns else line[: columns - 1] + "…"
