"""The sheet of sampled matches as a figure: one row for each query, with its nearest gallery images.

Lengths are in inches, y downward, on one axes that fills the figure.
"""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from reid.data.image_file import read_picture
from reid.reports.matches import Match, MatchRow
from reid.reports.plots import INK, MUTED, PAPER

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

RIGHT, WRONG, QUERY = "#0f8f6b", "#cf3f4f", "#2b83c6"
IMAGE = (0.62, 1.24)
STEP_X, STEP_Y = 0.80, 1.66
LEFT, BOTTOM, RIGHT_MARGIN = 1.25, 0.15, 0.15
LINE, CHARACTER = 0.2, 0.07
"""Height of a line and width of a character of the note, in inches."""
NOTE_END, LEGEND = 0.80, 0.3
"""Where a note without a line would end, and the room of the legend under it."""
QUERY_GAP = 0.22
THUMBNAIL = (128, 256)


def matches_sheet(rows: Sequence[MatchRow], *, title: str, note: str) -> "Figure":
    """Queries (blue frame) with their nearest images: right ones have a green frame and a tick, wrong ones a red frame
    and a cross.
    """
    ranks = max(len(row.matches) for row in rows)
    figure, axes, top = open_sheet(ranks, len(rows), title=title, note=note, left=LEFT, legend=LEGEND)
    _legend(axes, y=top - 0.46)
    for number, row in enumerate(rows):
        _row(axes, row, y=top + STEP_Y * number)
    return figure


def open_sheet(
    columns: int, rows: int, *, title: str, note: str, left: float, legend: float
) -> "tuple[Figure, Axes, float]":
    """A figure and its axes with title, note and the heads of the columns; and where the first row of images begins.

    `left`: the room before the queries; `legend`: the room between the note and the heads.
    """
    from matplotlib.figure import Figure

    width = max(left + QUERY_GAP + STEP_X * (columns + 1) + RIGHT_MARGIN, 6.4)
    lines = textwrap.wrap(note, int((width - 0.3) / CHARACTER))
    top = NOTE_END + LINE * len(lines) + legend
    height = top + STEP_Y * rows + BOTTOM
    figure = Figure(figsize=(width, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)
    axes.axis("off")
    axes.text(0.15, 0.32, title, fontsize=13, fontweight="bold", color=INK, va="center")
    for number, line in enumerate(lines):
        axes.text(0.15, 0.60 + LINE * number, line, fontsize=9, color=MUTED, va="center")
    for column in range(columns + 1):
        head = "query" if column == 0 else f"{column}"
        middle = place_of_column(column, left=left) + IMAGE[0] / 2
        axes.text(middle, top - 0.12, head, fontsize=9, color=MUTED, ha="center", va="center")
    return figure, axes, top


def place_of_column(column: int, *, left: float) -> float:
    """Where the images of a column begin; column 0 holds the queries."""
    return left + STEP_X * column + (QUERY_GAP if column else 0)


def _x(column: int) -> float:
    return place_of_column(column, left=LEFT)


def _row(axes: "Axes", row: MatchRow, *, y: float) -> None:
    lines = [
        (f"person {row.person}", 10.0, "bold", INK),
        (row.reason, 9.0, "normal", INK),
        (f"AP {100 * row.average_precision:.0f} %", 9.0, "normal", MUTED),
        (f"first right: {row.first_match.rank}", 9.0, "normal", MUTED),
    ]
    for number, (text, size, weight, colour) in enumerate(lines):
        axes.text(0.15, y + 0.28 + 0.22 * number, text, fontsize=size, fontweight=weight, color=colour, va="center")
    draw_picture(axes, row.path, x=_x(0), y=y, colour=QUERY)
    draw_caption(axes, f"camera {row.camera}", x=_x(0), y=y)
    for match in row.matches:
        _match(axes, match, x=_x(match.rank), y=y)


def _match(axes: "Axes", match: Match, *, x: float, y: float) -> None:
    draw_picture(axes, match.path, x=x, y=y, colour=RIGHT if match.correct else WRONG)
    draw_mark(axes, x=x + IMAGE[0] - 0.02, y=y + 0.02, correct=match.correct)
    draw_caption(axes, f"{match.distance:.2f} · c{match.camera}", x=x, y=y)


def draw_picture(axes: "Axes", path: str, *, x: float, y: float, colour: str) -> None:
    """An image file in a frame, its upper left corner at (x, y)."""
    from matplotlib.patches import Rectangle

    width, height = IMAGE
    axes.imshow(thumbnail(path), extent=(x, x + width, y + height, y), aspect="auto", interpolation="antialiased")
    axes.add_patch(Rectangle((x, y), width, height, fill=False, edgecolor=colour, linewidth=2.6, joinstyle="miter"))


def draw_caption(axes: "Axes", text: str, *, x: float, y: float) -> None:
    """A short text under the image at (x, y)."""
    axes.text(x + IMAGE[0] / 2, y + IMAGE[1] + 0.12, text, fontsize=7.5, color=INK, ha="center", va="center")


def draw_mark(axes: "Axes", *, x: float, y: float, correct: bool) -> None:
    """A round badge, centred on (x, y), with a tick or a cross."""
    from matplotlib.patches import Circle

    colour = RIGHT if correct else WRONG
    axes.add_patch(Circle((x, y), 0.095, facecolor=colour, edgecolor=PAPER, linewidth=1, zorder=3, clip_on=False))
    strokes = (
        [([-0.045, -0.012, 0.048], [0.003, 0.036, -0.036])]
        if correct
        else [([-0.034, 0.034], [-0.034, 0.034]), ([-0.034, 0.034], [0.034, -0.034])]
    )
    for across, down in strokes:
        points = (np.add(x, across), np.add(y, down))
        axes.plot(*points, color=PAPER, linewidth=1.5, solid_capstyle="round", zorder=4, clip_on=False)


def _legend(axes: "Axes", *, y: float) -> None:
    from matplotlib.patches import Rectangle

    axes.add_patch(Rectangle((0.15, y - 0.065), 0.10, 0.13, fill=False, edgecolor=QUERY, linewidth=2))
    axes.text(0.33, y, "query", fontsize=9, color=INK, va="center")
    draw_mark(axes, x=0.97, y=y, correct=True)
    axes.text(1.12, y, "same person", fontsize=9, color=INK, va="center")
    draw_mark(axes, x=2.17, y=y, correct=False)
    axes.text(2.32, y, "another person", fontsize=9, color=INK, va="center")
    axes.text(3.55, y, "under an image: distance · camera", fontsize=9, color=MUTED, va="center")


def thumbnail(path: str) -> NDArray[np.uint8]:
    """The pixels (256, 128, 3) of an image file, resized."""
    return np.asarray(read_picture(path).resize(THUMBNAIL, Image.Resampling.BILINEAR))
