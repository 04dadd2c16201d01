"""Texts for a terminal: what could command it is written out, for names come from files that anybody may have made.

An escape sequence in a file's name could clear the screen, change the window's title or hide the rest of an error, and
a change of the writing direction could make `gpj.exe` of `exe.jpg`.
"""

import re
import sys
from typing import TextIO

COMMANDS = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # control characters but tab and line end; ESC, BEL, CR; C1
    "\u200e\u200f\u202a-\u202e\u2066-\u2069\u061c"  # writing direction
    "\u2028\u2029\ufeff\ud800-\udfff]"  # other line ends, and no characters at all
)

MARKUP = re.compile(r"[\\`*\[\]|]|(?<!\w)_|_(?!\w)|^[#+-](?= )")
"""What Markdown takes for markup; _ within a word is none."""


def printable(text: str) -> str:
    """The text with each character that commands a terminal as \\x1b, \\u202e or \\udcff; tab and line end stay."""
    return COMMANDS.sub(lambda found: found[0].encode("unicode_escape", "surrogatepass").decode(), text)


def in_one_line(name: object) -> str:
    """A file's name as `printable` gives it, line ends and tabs as \\n and \\t: it cannot forge lines of an error."""
    return printable(str(name)).replace("\n", "\\n").replace("\t", "\\t")


def beginning(text: str | bytes, most: int) -> str:
    """At most so many characters of a text that anybody may have written, in one line; a space for what is no text."""
    text = text[: 4 * most].decode("utf-8", "replace") if isinstance(text, bytes) else text
    line = "".join(letter if letter.isprintable() else " " for letter in text[: most + 1])
    return line if len(line) <= most else f"{line[:most]}…"


def markdown_text(text: str) -> str:
    """The text for Markdown, which shows it as it is: no markup, no HTML, no link, no image, and in one line."""
    shown = MARKUP.sub(r"\\\g<0>", text).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return " ".join(line for line in shown.splitlines() if line)


def code_text(text: str) -> str:
    """The text as a word of code in Markdown, in one line."""
    return f"`{' '.join(text.replace('`', chr(39)).splitlines())}`"


def show_error(error: object, stream: TextIO | None = None) -> None:
    """Writes "error: TEXT" to the stream, standard error if none is given."""
    print(f"error: {printable(str(error))}", file=stream or sys.stderr)
