"""Live progress: plain lines in a file, one moving line for each running stage on a terminal."""

import io

import pytest

from pipelines.display import Display

ERASE_LINE = "\r\x1b[2K"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_file_gets_a_line_every_ten_seconds() -> None:
    stream, clock = io.StringIO(), Clock()
    display = Display(stream, width=5, clock=clock)
    display.started("train", "started")
    for second in range(25):
        clock.now = 100.0 + second
        display.progress("train", f"train: epoch {second}/25")
        display.tick()
    display.ended("train", "done in 25s")
    assert stream.getvalue().splitlines() == [
        "train  started",
        "train  epoch 10/25",
        "train  epoch 20/25",
        "train  done in 25s",
    ]
    assert "\x1b" not in stream.getvalue()


def test_a_terminal_gets_a_line_for_each_running_stage() -> None:
    stream, clock = Terminal(), Clock()
    with Display(stream, width=5, clock=clock) as display:
        display.started("train", "started")
        clock.now += 8
        display.tick()
        display.progress("train", "train: epoch 3/25")
        clock.now += 1
        display.tick()
        display.started("eval", "started")
        display.progress("eval", "x" * 100)
        clock.now += 1
        display.tick()
        display.ended("train", "done in 10s")
    first, second, third, fourth, *rest = stream.getvalue().split(ERASE_LINE)
    assert first == "train  started\n\x1b[?25l\x1b[?25htrain  running 8s"
    assert second == "train  epoch 3/25"
    assert third == "eval   started\ntrain  epoch 3/25"
    assert fourth == f"train  epoch 3/25\neval   {'x' * 31}…"
    assert f"train  done in 10s\neval   {'x' * 31}…" in rest[0]


def test_a_terminal_is_not_redrawn_more_often_than_five_times_a_second() -> None:
    stream, clock = Terminal(), Clock()
    display = Display(stream, width=5, clock=clock)
    display.started("train", "started")
    for step in range(100):
        clock.now = 100.0 + step / 100
        display.tick()
    assert stream.getvalue().count(ERASE_LINE) <= 5
