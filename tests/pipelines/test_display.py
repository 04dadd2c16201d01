"""Live progress: plain lines in a file, one rewritten line on a terminal."""

import io

import pytest

from pipelines.display import ERASE_LINE, Display, duration, fitted


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


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


def test_a_terminal_gets_one_line_rewritten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    stream, clock = Terminal(), Clock()
    display = Display(stream, width=5, clock=clock)
    display.started("train", "started")
    clock.now += 8
    display.tick()
    display.progress("train", "epoch 3/25")
    clock.now += 1
    display.tick()
    display.started("eval", "started")
    display.progress("eval", "x" * 100)
    clock.now += 1
    display.tick()
    display.ended("train", "done in 10s")
    written = stream.getvalue().split(ERASE_LINE)
    assert written[0] == "train  started\n"
    assert written[1:3] == ["train  running 8s", "train  epoch 3/25"]
    assert written[3] == "eval   started\n"
    assert written[4] == "train  epoch 3/25  |  eval  xxxxxxxxxx…"  # (40 - 1 - 5) / 2 = 17 columns each
    assert written[5] == "train  done in 10s\n"


def test_a_terminal_is_not_redrawn_more_often_than_five_times_a_second() -> None:
    stream, clock = Terminal(), Clock()
    display = Display(stream, width=5, clock=clock)
    display.started("train", "started")
    for step in range(100):
        clock.now = 100.0 + step / 100
        display.tick()
    assert stream.getvalue().count(ERASE_LINE) <= 5


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


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.04, "0.0s"), (0.44, "0.4s"), (8.2, "8s"), (125, "2m05s"), (3780, "1h03m")]
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text
