"""Lines that stay and lines that move, by the characters that reach the terminal."""

import io
import subprocess
import sys

import pytest

from reid.console.live import LiveLines, fitted

ERASE = "\r\x1b[2K"
UP = "\x1b[1A\x1b[2K"


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and gives what was written since the last look."""

    def isatty(self) -> bool:
        return True

    def look(self) -> str:
        written = self.getvalue()
        self.seek(0)
        self.truncate()
        return written


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


def test_each_running_task_has_a_line_below_those_that_stay() -> None:
    stream, clock = Terminal(), Clock()
    with LiveLines(stream, label_columns=5, clock=clock) as lines:
        lines.write("started", task="train")
        lines.start("train")
        clock.now += 8
        lines.redraw()
        assert stream.look() == "train  started\n\x1b[?25l\x1b[?25htrain  running 8s"
        lines.progress("train", "training: 1/4 images · epoch 1/4 · 160 images/s · 6s left")
        lines.start("eval")
        lines.redraw(now=True)
        rows = "train  training  ━━━           25 % · epoch 1/4 · 160 images/s · 6s left\neval   running 0.0s"
        assert stream.look() == ERASE + rows
        lines.write("a line that stays", task="eval")
        assert stream.look() == f"{ERASE}{UP}eval   a line that stays\n{rows}"
        lines.end("train")
        lines.redraw(now=True)
        assert stream.look() == f"{ERASE}{UP}eval   running 0.0s"
    assert stream.look().endswith(f"\x1b[?25h\r{UP}")  # nothing is left, and the cursor is shown


def test_a_wide_terminal_has_a_longer_bar_in_colours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    monkeypatch.delenv("NO_COLOR")
    stream = Terminal()
    with LiveLines(stream) as lines:
        lines.progress("training", "training: 2/4 images · 6s left")
        lines.redraw()
        written = stream.look()
    assert written.count("━") == 23  # and a half
    assert "\x1b[36m━━━━━━━━━━━━\x1b[0m" in written


def test_moving_lines_are_removed_when_the_block_ends_by_an_error() -> None:
    stream = Terminal()
    with pytest.raises(KeyboardInterrupt), LiveLines(stream) as lines:
        lines.progress("training", "training: 2/4 images · 6s left")
        lines.redraw()
        raise KeyboardInterrupt
    assert stream.look().endswith("\x1b[?25h\r" + UP)


def test_rich_is_not_loaded_if_there_is_no_terminal() -> None:
    code = (
        "import sys; from reid.console.live import LiveLines\n"
        "with LiveLines(sys.stdout) as lines:\n"
        "    lines.progress('a', 'a: 1/2 images · 1s left'); lines.redraw(now=True); lines.end('a')\n"
        "print('rich' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "a: 1/2 images · 1s left\nFalse\n"


def test_a_line_that_is_too_long_loses_its_middle_and_keeps_the_time_left() -> None:
    text = "training 50 % · epoch 2/4 · step 3/9 · loss 3.5 · 160 images/s · 4s left"
    assert fitted(text, 40) == "training 50 % · 160 images/s · 4s left"
    assert fitted(text, 20) == "training 50 % · 4s …"
    assert fitted(text, 100) == text


@pytest.mark.parametrize(
    ("room", "text"),
    [
        (100, "train  64/1455 images · epoch 3/25 · step 1/9 · loss 2.1 · 30 images/s · 9s left"),
        (70, "train  64/1455 images · epoch 3/25 · loss 2.1 · 30 images/s · 9s left"),
        (45, "train  64/1455 images · 30 images/s · 9s left"),
        (35, "train  64/1455 images · 9s left"),
        (12, "train  64/1…"),
    ],
)
def test_a_narrow_terminal_loses_the_middle_and_keeps_the_time_left(room: int, text: str) -> None:
    whole = "train  64/1455 images · epoch 3/25 · step 1/9 · loss 2.1 · 30 images/s · 9s left"
    assert fitted(whole, room) == text
