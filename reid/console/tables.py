"""Tables of figures, with rich: one style for the command line and the runner. Importing this loads no rich."""

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, TextIO

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

SHARE = re.compile(r"(.*_)?(mAP|mINP|rank\d+|accuracy)(_.+)?")
"""Names of figures that are fractions of 1, shown in percent; a further test set's end in its name: mAP_shop."""


class Closing(NamedTuple):
    """What a command shows at its end."""

    title: str
    metrics: Mapping[str, float]
    lines: Sequence[str]


def rich_console(stream: TextIO, *, interactive: bool = False) -> "Console":
    """rich's console on a stream, which shows texts as they are; `interactive` if lines may be redrawn on it."""
    from rich.console import Console

    forced = True if interactive else None
    return Console(
        file=stream,
        force_terminal=forced,
        force_interactive=forced,
        force_jupyter=False,
        highlight=False,
        markup=False,
        emoji=False,
    )


def table(first: str, *numbers: str, title: str | None = None) -> "Table":
    """A table with a column of names and columns of numbers, to which columns can be added."""
    from rich import box
    from rich.table import Table

    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, title=title, title_justify="left")
    made.add_column(first, no_wrap=True)
    for heading in numbers:
        made.add_column(heading, justify="right", no_wrap=True)
    return made


def show_closing(stream: TextIO, closing: Closing) -> None:
    """Writes the closing table of a task and its sentences; plain columns if the stream is no terminal."""
    metrics = closing.metrics
    rows = [(name, figure(name, value) + _in_brackets(name, metrics)) for name, value in without_ends(metrics).items()]
    if stream.isatty():
        made = table("figure", "value", title=closing.title)
        for row in rows:
            made.add_row(*row)
        rich_console(stream).print(made)
    else:
        width = max((len(name) for name, _ in rows), default=0)
        stream.write(f"{closing.title}\n" + "".join(f"  {name:<{width}}  {value:>12}\n" for name, value in rows))
    stream.write("".join(f"{line}\n" for line in closing.lines))
    stream.flush()


def without_ends(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics without the ends of intervals, mAP_low and mAP_high for example, of figures that are there too."""
    ends = {name for figure in metrics for name in _ends(figure)}
    return {name: value for name, value in metrics.items() if name not in ends}


def range_of(name: str, metrics: Mapping[str, float]) -> str:
    """The 95 % interval of a figure in percent, 61.2 to 72.0 with a dash for "to"; "" if the metrics do not have it."""
    ends = [metrics[end] for end in _ends(name) if end in metrics]
    return f"{100 * ends[0]:.1f}\u2013{100 * ends[1]:.1f}" if len(ends) == 2 else ""


def _in_brackets(name: str, metrics: Mapping[str, float]) -> str:
    found = range_of(name, metrics)
    return f" ({found})" if found else ""


def _ends(name: str) -> tuple[str, ...]:
    """The names of the two ends of a figure's interval; none if it is no fraction."""
    found = SHARE.fullmatch(name)
    if not found:
        return ()
    before, kind, after = (part or "" for part in found.groups())
    return tuple(f"{before}{kind}_{end}{after}" for end in ("low", "high"))


def figure(name: str, value: float) -> str:
    """A figure as a person reads it; fractions such as mAP in percent."""
    if SHARE.fullmatch(name):
        return f"{100 * value:.2f} %"
    return f"{value:,.0f}" if value == int(value) and abs(value) < 1e12 else f"{value:.6g}"
