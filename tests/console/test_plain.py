"""Texts that could command a terminal, or are markup, are shown as what they are."""

import io
from pathlib import Path

import pytest

from reid.console.live import LiveLines
from reid.console.plain import code_text, in_one_line, markdown_text, printable, show_error
from reid.errors import DatasetError


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("caf\u00e9 \u6f22\n\tan indented line", "caf\u00e9 \u6f22\n\tan indented line"),
        ("\x1b]0;title\x07\x1b[2J\r\x7f", "\\x1b]0;title\\x07\\x1b[2J\\r\\x7f"),
        ("\x9b31m\x85", "\\x9b31m\\x85"),  # C1: a terminal takes U+009B for ESC [
        ("\u202egpj.exe\u2066", "\\u202egpj.exe\\u2066"),
        ("\udcff.jpg", "\\udcff.jpg"),  # a byte of a file's name that is no UTF-8
    ],
)
def test_characters_that_command_a_terminal_are_written_out(text: str, shown: str) -> None:
    assert printable(text) == shown


def test_a_name_stays_in_one_line() -> None:
    assert in_one_line(Path("a\nerror: b\t\x1b.jpg")) == "a\\nerror: b\\t\\x1b.jpg"


def test_errors_and_log_lines_cannot_command_the_terminal() -> None:
    error, log = io.StringIO(), io.StringIO()
    show_error(DatasetError("\x1b[2J.jpg: cannot be read\n  want: another"), error)
    assert error.getvalue() == "error: \\x1b[2J.jpg: cannot be read\n  want: another\n"
    LiveLines(log).write("a\x07")
    assert log.getvalue() == "a\\x07\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("<script>alert(1)</script> &", "&lt;script&gt;alert(1)&lt;/script&gt; &amp;"),
        ("![x](http://a/b) `c` | d", "!\\[x\\](http://a/b) \\`c\\` \\| d"),
        ("0001_c1s1_000001_01.jpg", "0001_c1s1_000001_01.jpg"),
        ("**a** _b_", "\\*\\*a\\*\\* \\_b\\_"),
        ("a\n# b\r\u2028c", "a # b c"),
    ],
)
def test_a_text_is_no_markup_in_markdown(text: str, shown: str) -> None:
    assert markdown_text(text) == shown


def test_a_word_of_code_stays_one() -> None:
    assert code_text("a`<b>\nc") == "`a'<b> c`"
