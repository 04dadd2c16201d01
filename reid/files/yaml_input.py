"""YAML that a user or another program wrote: read within limits, and checked before it becomes values.

YAML's own constructors and composers fail in many ways on hostile text (a traceback, a stack overflow of the process).
The parser's events come one at a time without recursion, so depth, length and tags are checked on them first.
"""

import os
import re
import stat
from pathlib import Path

import yaml

MOST_BYTES = 1 << 20
MOST_DEPTH = 32
MOST_DIGITS = 300
"""The longest number that is read; the largest float has 309 digits."""
PIPES = ("/dev/stdin", "/dev/fd/", "/proc/")
"""Where a shell offers the output of another program as a file."""
NUMBER = set("0123456789_+-.eE")
NO_TEXT = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")
"""Control characters, and the halves of characters by which Python writes bytes that are not UTF-8."""


class RefusedInputError(ValueError):
    """The text is not one that is read here; the message says what was found and what is wanted."""


def read_yaml_text(path: Path) -> str:
    """The text of a file of at most 1 MiB; raises RefusedInputError for anything else, and OSError."""
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise RefusedInputError("found a folder; want a YAML file")
    if not stat.S_ISREG(mode) and not os.fspath(path).startswith(PIPES):
        raise RefusedInputError("found a device or a pipe; want a YAML file")
    with path.open("rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise RefusedInputError("found more than 1 MiB; want a YAML file of some pages")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RefusedInputError(f"found bytes that are not UTF-8, at byte {error.start}; want a YAML file") from None


def check_yaml(text: str) -> None:
    """Raises RefusedInputError unless the text is a mapping that passes check_yaml_value; an empty text passes."""
    for event in check_yaml_value(text)[:1]:
        if isinstance(event, yaml.SequenceStartEvent):
            raise RefusedInputError(f"{_line(event)}: found a list, want sections (key: value)")
        if isinstance(event, yaml.ScalarEvent) and event.value:
            raise RefusedInputError(f"{_line(event)}: found {shortened(event.value)}, want sections (key: value)")


def check_yaml_value(text: str) -> list[yaml.NodeEvent]:
    """The nodes of a text; raises RefusedInputError if it is too deep, tagged or no text, yaml.YAMLError if no YAML."""
    if found := NO_TEXT.search(text):
        raise RefusedInputError(f"found the character {found[0]!r}, want a plain text")
    depth, nodes = 0, []
    for event in yaml.parse(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
        if isinstance(event, yaml.NodeEvent):
            _check_node(event)
            nodes.append(event)
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH:
            raise RefusedInputError(f"{_line(event)}: nested deeper than {MOST_DEPTH} levels")
    return nodes


def _check_node(event: yaml.NodeEvent) -> None:
    tag = getattr(event, "tag", None)
    if tag is not None and tag != "!":
        raise RefusedInputError(f"{_line(event)}: found the tag {tag}, want a plain value")
    plain = event.value if isinstance(event, yaml.ScalarEvent) and event.implicit[0] else ""
    if len(plain) > MOST_DIGITS and NUMBER.issuperset(plain):
        raise RefusedInputError(f"{_line(event)}: found a number of {len(plain)} digits")


def _line(event: yaml.Event) -> str:
    return f"line {event.start_mark.line + 1}" if event.start_mark else "the end"


def shortened(value: str) -> str:
    """The text in quotes, at most 40 characters of it, for an error."""
    return repr(value if len(value) <= 40 else f"{value[:40]}…")
