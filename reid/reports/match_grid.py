"""The pictures of a grid of matches with their captions: a row for each query, its gallery images by CMC rank."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from reid.reports.matches import Match, MatchRow
from reid.reports.thumbnails import Thumbnails

SIZE = {"width": 80, "height": 160}
"""Largest width and height in pixels; pictures are shown at four fifths, and larger under the pointer."""


@dataclass(frozen=True)
class Picture:
    """One image with its frame, its caption and the text of its tooltip."""

    kind: str
    """The frame: "query", "right", "wrong" or "compared" (neither right nor wrong)."""
    uri: str
    caption: str
    tooltip: str
    first_right: bool = False
    """The first right image, set apart because it lies beyond the ranks that are shown."""


@dataclass(frozen=True)
class GridRow:
    """A query with the lines beside it."""

    person: int
    lines: tuple[str, ...]
    pictures: tuple[Picture, ...]


@dataclass(frozen=True)
class MatchGrid:
    """The rows that fit into the page."""

    rows: tuple[GridRow, ...]
    left_out: int
    """Rows for which the page had no room."""


def match_grid(rows: Sequence[MatchRow], thumbnails: Thumbnails, *, ranks: int, first_right: bool = False) -> MatchGrid:
    """The queries with their first `ranks` images and, with first_right, the first right one; within the budget."""
    shown: list[GridRow] = []
    for row in rows:
        if thumbnails.left_bytes <= 0:
            break
        shown.append(_grid_row(row, thumbnails, ranks=ranks, first_right=first_right))
    return MatchGrid(tuple(shown), len(rows) - len(shown))


def _grid_row(row: MatchRow, thumbnails: Thumbnails, *, ranks: int, first_right: bool) -> GridRow:
    tooltip = f"{Path(row.path).name}\nquery: person {row.person}, camera {row.camera}"
    pictures = [Picture("query", thumbnails.uri(row.path), f"camera {row.camera}", tooltip)]
    pictures += [_picture(match, thumbnails) for match in row.matches[:ranks]]
    if first_right and row.first_match.rank > ranks:
        pictures.append(_picture(row.first_match, thumbnails, first_right=True))
    lines = (row.reason, f"AP {100 * row.average_precision:.0f} %", f"first right: {row.first_match.rank}")
    return GridRow(row.person, lines, tuple(pictures))


def _picture(match: Match, thumbnails: Thumbnails, *, first_right: bool = False) -> Picture:
    who = {0: "a distractor"}.get(match.person, f"person {match.person}")
    return Picture(
        kind="right" if match.correct else "wrong",
        uri=thumbnails.uri(match.path),
        caption=f"rank {match.rank}" if first_right else f"{match.distance:.2f} \u00b7 c{match.camera}",
        tooltip=f"{Path(match.path).name}\n"
        f"rank {match.rank}: {who}, camera {match.camera}\ndistance {match.distance:.4f}",
        first_right=first_right,
    )
