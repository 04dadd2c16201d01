"""What a command shows, on a terminal and in a pipe."""

import io
import logging

import pytest

from reid.console.view import Console, figure, fitted, show_outcome, shown_on

ERASE = "\r\x1b[2K"


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def eighty_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def record(text: str, name: str = "reid.progress", level: int = logging.INFO) -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, None, None)


def test_progress_on_a_terminal_is_one_line_with_a_bar_rewritten_in_place() -> None:
    stream = Terminal()
    console = Console(stream)
    console.emit(record("training: 320/1280 images · epoch 1/4 · loss 3.5 · 160 images/s · 6s left"))
    console.emit(record("training: 640/1280 images · epoch 2/4 · loss 3.5 · 160 images/s · 4s left"))
    console.emit(record("epoch 2/4: loss 3.5", name="reid.training.record"))
    first, second, erased = stream.getvalue().split(ERASE)[1:]
    assert first == "training  ██████░░░░░░░░░░░░░░░░░░  25 % · epoch 1/4 · 160 images/s · 6s left"
    assert second == "training  ████████████░░░░░░░░░░░░  50 % · epoch 2/4 · 160 images/s · 4s left"
    assert erased[8:] == " epoch 2/4: loss 3.5\n"


def test_progress_in_a_pipe_is_a_plain_line_every_ten_seconds_for_each_kind_of_work() -> None:
    now, stream = [100.0], io.StringIO()
    console = Console(stream, clock=lambda: now[0])
    for moment, text in (
        (100.0, "training: 1/9 images · 1 images/s · 8s left"),
        (101.0, "training: 2/9 images · 1 images/s · 7s left"),
        (102.0, "embedding query: 1/9 images · 1 images/s · 8s left"),
        (110.0, "training: 3/9 images · 1 images/s · 6s left"),
    ):
        now[0] = moment
        console.emit(record(text))
    assert [line[9:] for line in stream.getvalue().splitlines()] == [
        "training: 1/9 images · 1 images/s · 8s left",
        "embedding query: 1/9 images · 1 images/s · 8s left",
        "training: 3/9 images · 1 images/s · 6s left",
    ]


def test_a_warning_says_that_it_is_one() -> None:
    stream = io.StringIO()
    Console(stream).emit(record("train.optim.steps is read as train.optim.lr_steps", "reid.spec", logging.WARNING))
    assert stream.getvalue()[8:] == " warning: train.optim.steps is read as train.optim.lr_steps\n"


def test_a_line_that_is_too_long_loses_its_middle_and_keeps_the_time_left() -> None:
    text = "training 50 % · epoch 2/4 · step 3/9 · loss 3.5 · 160 images/s · 4s left"
    assert fitted(text, 40) == "training 50 % · 160 images/s · 4s left"
    assert fitted(text, 20) == "training 50 % · 4s …"
    assert fitted(text, 100) == text


def test_all_of_ours_is_shown_and_of_others_warnings_only() -> None:
    stream = io.StringIO()
    before = logging.getLogger("reid").level
    with shown_on(stream):
        logging.getLogger("reid.cli.tasks").info("ours")
        logging.getLogger("other").info("theirs")
        logging.getLogger("other").warning("their warning")
    logging.getLogger("reid.cli.tasks").warning("later")
    assert [line[9:] for line in stream.getvalue().splitlines()] == ["ours", "warning: their warning"]
    assert logging.getLogger("reid").level == before


def test_the_table_in_a_pipe_is_plain_columns() -> None:
    stream = io.StringIO()
    show_outcome(stream, "evaluate", {"mAP": 0.71321, "queries": 3368.0, "seconds": 1.25}, ["plain: mAP 71.3"])
    assert stream.getvalue() == (
        "evaluate\n  mAP           71.32 %\n  queries         3,368\n  seconds          1.25\nplain: mAP 71.3\n"
    )


def test_the_table_on_a_terminal_has_a_frame() -> None:
    stream = Terminal()
    show_outcome(stream, "evaluate", {"mAP": 0.71321}, ["plain: mAP 71.3"])
    assert "│ mAP    │ 71.32 % │" in stream.getvalue()
    assert stream.getvalue().endswith("\nplain: mAP 71.3\n")


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("untrained_reranked_rank1", 0.5, "50.00 %"),
        ("best_mAP", 1.0, "100.00 %"),
        ("best_epoch", 12.0, "12"),
        ("gallery", 19732.0, "19,732"),
        ("parity_max_abs", 5.3644e-07, "5.3644e-07"),
        ("train_loss", 3.4955712, "3.49557"),
    ],
)
def test_a_figure_is_shown_as_a_person_reads_it(name: str, value: float, shown: str) -> None:
    assert figure(name, value) == shown
