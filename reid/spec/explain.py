"""The spec's fields in words, made from the sections themselves; and a blank spec.

A field's docstring is its meaning, its annotation says what it takes and what else is known of it (`facts.py`), so
that nothing is written down twice.
"""

import difflib
import textwrap
from collections.abc import Iterable, Iterator, Sequence, Set

from reid.errors import SpecError
from reid.spec.described import Described, as_yaml, children, described
from reid.spec.facts_in_words import facts_in_words
from reid.spec.field_types import Section
from reid.spec.fields import fields_of
from reid.spec.sections import Experiment
from reid.spec.tao import ALIASES, IDLE

WIDEST_NAME = 36
"""Columns of `field = default`; a longer one stands on a line of its own."""
INLINE_COLUMNS = 120
"""Columns of the blank spec; the comment of a line that would be longer stands above it."""


def explain(name: str, *, width: int) -> str:
    """What the spec's section or field `name` takes and means, in lines of `width` columns; "" is the whole spec.

    A field also says what is known of it: which stages and tasks read it, whether it is a path, whether a change of it
    starts a new training. TAO's older spellings and idle keys are explained too. Raises SpecError, with the nearest
    known name, if `name` is unknown.
    """
    if name in ALIASES:
        return f"{name}: an older spelling\n{explain(ALIASES[name], width=width)}"
    if name in IDLE:
        default, why = IDLE[name]
        return f"{name}: accepted and without effect (TAO's default: {as_yaml(default)})\n  {why}\n"
    if not name:
        return "\n".join(_lines("", children("", Experiment), width)) + "\n"
    known = {entry.name: entry for entry in described("", Experiment)}
    if name not in known:
        raise SpecError(f"{name}: no section or field of the spec{_nearest(name, list(known))}")
    found = known[name]
    if found.is_section and found.section:
        head = textwrap.fill(f"{name}: {found.meaning}", width)
        return "\n".join([head, *_lines(name, children(name, found.section), width)]) + "\n"
    lines = [f"{name}: {found.wanted}", f"  default: {found.default or 'none, it must be given'}"]
    if found.meaning:
        lines += textwrap.wrap(found.meaning, width, initial_indent="  ", subsequent_indent="  ")
    if not found.section:
        for sentence in facts_in_words(fields_of()[name]):
            lines += textwrap.wrap(sentence, width, initial_indent="  ", subsequent_indent="    ")
        if found.items:
            lines += ["", "each item is a section:", *_lines(name, children("", found.items), width)]
    else:
        lines += ["", "as a section:", *_lines(name, children(name, found.section), width)]
    return "\n".join(lines) + "\n"


def listed(names: Sequence[str], *, width: int) -> str:
    """Some fields, each under the name of its section, in the order of the spec: a task's help.

    A section all of whose fields are among them is headed by its meaning.
    """
    known = {entry.name: entry for entry in described("", Experiment)}
    lines: list[str] = []
    for name in sorted(_with_whole_sections(set(names), known), key=list(known).index):
        entry = known[name]
        if entry.is_section and entry.section:
            lines += ["", f"{name}: {entry.meaning}", *_lines(name, children(name, entry.section), width)]
        else:
            heading = name.rpartition(".")[0]
            if heading and f"{heading}:" not in lines:
                lines += ["", f"{heading}:"]
            lines += _row(entry, width)
    return "\n".join(lines).lstrip("\n") + "\n"


def _with_whole_sections(names: Set[str], known: Iterable[str]) -> set[str]:
    """The names, with the name of a section in the place of its fields if all of them are there."""
    whole = {name for name in known if {field for field in fields_of() if _lies_in(field, name)} <= names}
    return {name for name in whole if name.rpartition(".")[0] not in whole}


def _lies_in(field: str, section: str) -> bool:
    return field == section or field.startswith(f"{section}.")


def blank() -> str:
    """A YAML spec of every field at its default, with comments; it loads as it stands."""
    head = [
        "# Every field of the spec, at its default. What stays at its default may be removed.",
        "# A value may refer to another: ${results_dir}/train. On the command line: section.field=value",
    ]
    return "\n".join([*head, *_blank_lines("", Experiment, indent="")]) + "\n"


def _blank_lines(prefix: str, section: type[Section], *, indent: str) -> Iterator[str]:
    for entry in children(prefix, section):
        if entry.is_section and entry.section:
            yield from ([""] if not prefix else [])
            yield f"{indent}{entry.key}:  # {entry.meaning}"
            yield from _blank_lines(entry.name, entry.section, indent=indent + "  ")
            continue
        line = f"{indent}{entry.key}: {entry.default}"
        if len(line) + len(entry.sentence()) + 4 <= INLINE_COLUMNS:
            yield f"{line}  # {entry.sentence()}"
        else:
            yield from textwrap.wrap(
                entry.sentence(), INLINE_COLUMNS, initial_indent=f"{indent}# ", subsequent_indent=f"{indent}# "
            )
            yield line
        if entry.section:
            yield f"{indent}# {entry.key}:"
            yield from _blank_lines(entry.name, entry.section, indent=f"{indent}#   ")


def _lines(name: str, entries: Sequence[Described], width: int) -> Iterator[str]:
    """A row for each field, then a block for each section below."""
    for entry in entries:
        if not entry.is_section:
            yield from _row(entry, width)
    for entry in entries:
        if entry.section:
            yield ""
            yield from textwrap.wrap(f"{entry.name}: {entry.meaning}", width)
            yield from _lines(entry.name, children(entry.name, entry.section), width)


def _row(entry: Described, width: int) -> list[str]:
    left = f"  {entry.key} = {entry.default}" if entry.default else f"  {entry.key}"
    room = WIDEST_NAME + 2
    right = textwrap.wrap(entry.sentence(), max(width - room, 30), break_on_hyphens=False)
    if len(left) >= room:
        return [left, *(" " * room + line for line in right)]
    return [f"{left:<{room}}{right[0]}", *(" " * room + line for line in right[1:])]


def _nearest(name: str, known: Sequence[str]) -> str:
    """A hint at the name that was probably meant: one with the same last part, else one that is spelled alike."""
    last = name.rpartition(".")[2]
    close = [entry for entry in known if entry.rpartition(".")[2] == last]
    close = close or difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    if not close:
        ends = {entry.rpartition(".")[2]: entry for entry in known}
        close = [ends[match] for match in difflib.get_close_matches(last, list(ends), n=1, cutoff=0.6)]
    return f"; did you mean {close[0]}?" if close else "; reid spec --explain lists them all"
