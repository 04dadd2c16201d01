"""The sheet of a search as a figure: a row for each query, with its most similar gallery images.

Lengths are in inches, as in sheet.py, whose pictures and marks it uses.
"""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from reid.errors import UnreadableImage
from reid.reports.plots import INK, MUTED
from reid.reports.sheet import (
    IMAGE,
    LEGEND,
    QUERY,
    RIGHT,
    STEP_Y,
    draw_caption,
    draw_mark,
    draw_picture,
    open_sheet,
    place_of_column,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LEFT = 0.25
OTHER = "#b4b2aa"
"""The frame of a hit that is not taken for the query's person."""
NAME_LENGTH = 12
"""Largest number of characters of a file name under a query."""


@dataclass(frozen=True)
class SheetHit:
    """A gallery image, how similar it is, and whether it is taken for the query's person (None: not known)."""

    path: str
    similarity: float
    same_person: bool | None


@dataclass(frozen=True)
class SheetRow:
    """A query and its hits, the most similar first."""

    path: str
    hits: tuple[SheetHit, ...]


def search_sheet(rows: Sequence[SheetRow], *, title: str, note: str) -> "Figure":
    """Queries (blue frame) with their hits; a green frame and a tick mark those that are taken for the same person.

    An image that cannot be read is an empty frame with its name.
    """
    columns = max((len(row.hits) for row in rows), default=0)
    marked = any(hit.same_person is not None for row in rows for hit in row.hits)
    legend = LEGEND if marked else 0.0
    figure, axes, top = open_sheet(columns, len(rows), title=title, note=note, left=LEFT, legend=legend)
    if marked:
        draw_mark(axes, x=0.25, y=top - 0.42, correct=True)
        axes.text(0.40, top - 0.42, "taken for the same person", fontsize=9, color=INK, va="center")
    for number, row in enumerate(rows):
        _row(axes, row, y=top + STEP_Y * number)
    return figure


def _x(column: int) -> float:
    return place_of_column(column, left=LEFT)


def _row(axes: "Axes", row: SheetRow, *, y: float) -> None:
    _image(axes, row.path, x=_x(0), y=y, colour=QUERY)
    draw_caption(axes, _short(Path(row.path).name), x=_x(0), y=y)
    for column, hit in enumerate(row.hits, 1):
        _image(axes, hit.path, x=_x(column), y=y, colour=RIGHT if hit.same_person else OTHER)
        if hit.same_person:
            draw_mark(axes, x=_x(column) + IMAGE[0] - 0.02, y=y + 0.02, correct=True)
        draw_caption(axes, f"{hit.similarity:.3f}", x=_x(column), y=y)


def _image(axes: "Axes", path: str, *, x: float, y: float, colour: str) -> None:
    from matplotlib.patches import Rectangle

    try:
        draw_picture(axes, path, x=x, y=y, colour=colour)
    except UnreadableImage:  # the gallery's file may come from another machine
        axes.add_patch(Rectangle((x, y), *IMAGE, fill=False, edgecolor=colour, linewidth=2.6))
        name = "\n".join(textwrap.wrap(f"not here: {Path(path).name}", 10)[:7])
        axes.text(x + IMAGE[0] / 2, y + IMAGE[1] / 2, name, fontsize=6.5, color=MUTED, ha="center", va="center")


def _short(name: str) -> str:
    return name if len(name) <= NAME_LENGTH else f"{name[: NAME_LENGTH - 6]}…{name[-5:]}"
