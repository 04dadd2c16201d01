"""What a command shows, on a terminal and in a pipe."""

import io
import logging
import re

import pytest

from reid.console.view import LogView, shown_on

ERASE = "\r\x1b[2K"
CURSOR_SHOWN = "\x1b[?25h"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")


def record(text: str, name: str = "reid.progress", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, None, None)


def test_progress_on_a_terminal_is_one_line_with_a_bar_rewritten_in_place() -> None:
    stream = Terminal()
    view = LogView(stream)
    view.emit(record("training: 320/1280 images · epoch 1/4 · loss 3.5 · 160 images/s · 6s left"))
    view.emit(record("training: 640/1280 images · epoch 2/4 · loss 3.5 · 160 images/s · 4s left"))
    view.emit(record("epoch 2/4: loss 3.5", name="reid.training.record"))
    first, second, erased = stream.getvalue().split(CURSOR_SHOWN)[1].split(ERASE)[0:3]
    assert first == "training  ━━━           25 % · epoch 1/4 · loss 3.5 · 160 images/s · 6s left"
    assert second == "training  ━━━━━━        50 % · epoch 2/4 · loss 3.5 · 160 images/s · 4s left"
    assert re.fullmatch(r"\r\d\d:\d\d:\d\d epoch 2/4: loss 3.5\n", stream.getvalue().split(CURSOR_SHOWN)[-1])
    assert erased == ""


def test_other_work_takes_the_place_of_the_moving_line() -> None:
    stream = Terminal()
    view = LogView(stream)
    view.emit(record("training: 320/1280 images · 160 images/s · 6s left"))
    stream.seek(0)
    stream.truncate()
    view.emit(record("embedding query: 1/2 images · 160 images/s · 6s left"))
    view.close()
    assert "embedding query  ━━━━━━" in stream.getvalue()
    assert stream.getvalue().endswith(CURSOR_SHOWN + "\r\x1b[1A" + "\x1b[2K")


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    stream = Terminal()
    LogView(stream).emit(record("training: 320/1280 images · 160 images/s · 6s left"))
    assert stream.getvalue()[8:] == " training: 320/1280 images · 160 images/s · 6s left\n"


def test_progress_in_a_pipe_is_a_plain_line_every_ten_seconds_for_each_kind_of_work() -> None:
    now, stream = [100.0], io.StringIO()
    view = LogView(stream, clock=lambda: now[0])
    for moment, text in (
        (100.0, "training: 1/9 images · 1 images/s · 8s left"),
        (101.0, "training: 2/9 images · 1 images/s · 7s left"),
        (102.0, "embedding query: 1/9 images · 1 images/s · 8s left"),
        (110.0, "training: 3/9 images · 1 images/s · 6s left"),
    ):
        now[0] = moment
        view.emit(record(text))
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "training: 1/9 images · 1 images/s · 8s left",
        "embedding query: 1/9 images · 1 images/s · 8s left",
        "training: 3/9 images · 1 images/s · 6s left",
    ]


def test_a_warning_says_that_it_is_one() -> None:
    stream = io.StringIO()
    LogView(stream).emit(record("train.optim.steps is read as train.optim.lr_steps", "reid.spec", logging.WARNING))
    assert stream.getvalue()[8:] == " warning: train.optim.steps is read as train.optim.lr_steps\n"


def test_every_record_of_this_project_is_shown_and_only_warnings_of_others() -> None:
    stream = io.StringIO()
    before = logging.getLogger("reid").level
    with shown_on(stream):
        logging.getLogger("reid.cli.tasks").info("ours")
        logging.getLogger("other").info("theirs")
        logging.getLogger("other").warning("their warning")
    logging.getLogger("reid.cli.tasks").warning("later")
    assert [line[9:] for line in stream.getvalue().splitlines()] == ["ours", "warning: their warning"]
    assert logging.getLogger("reid").level == before
