"""The closing table, on a terminal and in a pipe."""

import io
import re

import pytest

from reid.console.tables import Closing, figure, show_closing


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def test_the_table_in_a_pipe_is_plain_columns() -> None:
    stream = io.StringIO()
    metrics = {"mAP": 0.71321, "queries": 3368.0, "seconds": 1.25}
    show_closing(stream, Closing("evaluate", metrics, ["plain: mAP 71.3"]))
    assert stream.getvalue() == (
        "evaluate\n  mAP           71.32 %\n  queries         3,368\n  seconds          1.25\nplain: mAP 71.3\n"
    )


def test_the_ends_of_an_interval_stand_behind_their_figure() -> None:
    stream = io.StringIO()
    ends = {"mAP_low": 0.61, "mAP_high": 0.72, "reranked_rank1_low_shop": 0.1, "reranked_rank1_high_shop": 0.3}
    show_closing(stream, Closing("evaluate", {"mAP": 0.668, "reranked_rank1_shop": 0.25, **ends}, []))
    assert stream.getvalue() == (
        "evaluate\n  mAP                  66.80 % (61.0\u201372.0)\n  reranked_rank1_shop  25.00 % (10.0\u201330.0)\n"
    )


def test_the_table_on_a_terminal_has_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    show_closing(stream, Closing("evaluate", {"mAP": 0.71321}, ["plain: mAP 71.3"]))
    text = re.sub(r"\x1b\[\d+m", "", stream.getvalue())
    assert [line.rstrip() for line in text.splitlines()] == [
        "evaluate",
        "figure     value",
        "────────────────",
        "mAP      71.32 %",
        "plain: mAP 71.3",
    ]


@pytest.mark.parametrize(
    ("name", "value", "shown"),
    [
        ("untrained_reranked_rank1", 0.5, "50.00 %"),
        ("best_mAP", 1.0, "100.00 %"),
        ("best_epoch", 12.0, "12"),
        ("gallery", 19732.0, "19,732"),
        ("parity_max_abs", 5.3644e-07, "5.3644e-07"),
        ("train_loss", 3.4955712, "3.49557"),
        ("reranked_mAP_shop", 0.5, "50.00 %"),
        ("queries_shop", 6.0, "6"),
    ],
)
def test_a_figure_is_shown_as_a_person_reads_it(name: str, value: float, shown: str) -> None:
    assert figure(name, value) == shown
