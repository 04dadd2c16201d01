"""The table of the evaluation page that shows each pair of a query's camera and a camera of the gallery as a cell."""

from collections.abc import Sequence
from dataclasses import dataclass

from reid.data.findings import counted
from reid.scoring.camera_pairs import CameraPair

ROOMY = 8
"""Up to so many cameras a cell also shows the interval and the number of persons."""
MOST = 30
"""With more cameras of either kind there is no grid, which nobody could read, but a list of the worst pairs."""


@dataclass(frozen=True)
class Cell:
    """One pair of cameras."""

    value: str
    """mAP in percent; "" if no query of the one camera shows a person whom the other camera shows too."""
    lines: tuple[str, ...] = ()
    tooltip: str = ""
    percent: float = 0.0
    """How strongly it is coloured: 0 for the lowest mAP of all pairs, 60 for the highest."""
    few: bool = False
    """Whether it is of few persons; such a cell is grey."""


@dataclass(frozen=True)
class CameraGrid:
    """A row for each camera of the queries, a column for each camera of the gallery."""

    columns: Sequence[int]
    rows: Sequence[tuple[int, Sequence[Cell]]]
    roomy: bool
    """Whether the cells also show the interval and the number of persons."""


def camera_grid(pairs: Sequence[CameraPair]) -> CameraGrid | None:
    """The grid of all pairs; None if there is no pair, or too many cameras."""
    rows = sorted({pair.query_camera for pair in pairs})
    columns = sorted({pair.gallery_camera for pair in pairs})
    if not pairs or max(len(rows), len(columns)) > MOST:
        return None
    low, high = min(pair.mAP.value for pair in pairs), max(pair.mAP.value for pair in pairs)
    roomy = max(len(rows), len(columns)) <= ROOMY
    cells = {(pair.query_camera, pair.gallery_camera): _cell(pair, low=low, high=high, roomy=roomy) for pair in pairs}
    grid = [(row, [cells.get((row, column), Cell("")) for column in columns]) for row in rows]
    return CameraGrid(columns, grid, roomy)


def worst_pairs(pairs: Sequence[CameraPair], *, count: int) -> list[CameraPair]:
    """The pairs of lowest mAP, those of few persons left out if there are others."""
    many = [pair for pair in pairs if not pair.mAP.few]
    return sorted(many or pairs, key=lambda pair: (pair.mAP.value, pair.query_camera, pair.gallery_camera))[:count]


def _cell(pair: CameraPair, *, low: float, high: float, roomy: bool) -> Cell:
    lines = [f"rank-1 {100 * pair.rank1.value:.1f}" if roomy else f"{100 * pair.rank1.value:.1f}"]
    if roomy:
        lines = [pair.mAP.range_in_percent, *lines, counted(pair.persons, "person")]
    tooltip = (
        f"queries of camera {pair.query_camera} in camera {pair.gallery_camera}\n"
        f"mAP {pair.mAP.in_percent}, rank-1 {pair.rank1.in_percent}\n"
        f"{pair.queries:,} queries of {counted(pair.persons, 'person')}, {pair.gallery:,} gallery images"
    )
    share = (pair.mAP.value - low) / (high - low) if high > low else 0.5
    return Cell(f"{100 * pair.mAP.value:.1f}", tuple(filter(None, lines)), tooltip, 60 * share, pair.mAP.few)
