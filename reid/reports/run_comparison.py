"""The page of `reid compare`: is B better than A, by how much, on which queries, and what differs between the runs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from reid.reports.blocks import Table, Tile
from reid.reports.match_grid import SIZE, GridRow, MatchGrid, Picture
from reid.reports.page import render
from reid.reports.thumbnails import Thumbnails
from reid.scoring.confidence import Interval
from reid.scoring.paired import Difference, in_words, standing_of

BUDGET_BYTES = 1_200_000
"""Bytes of thumbnails; the whole page stays under 2 MB, which Kubeflow's user interface still shows."""
RIGHT, WRONG = "\u2713", "\u2715"
LINES_SHOWN = 60
"""Characters of a value of the spec that are shown."""


@dataclass(frozen=True)
class MovedQuery:
    """A query whose average precision changed much. Pairs are A's and B's."""

    name: str
    """Below the folder of the queries."""
    paths: tuple[str, str]
    person: int
    camera: int
    precision: tuple[float, float]
    first_match: tuple[int, int]
    """CMC rank of the first right image."""
    nearest: tuple[str, str]
    """Path of the nearest gallery image."""
    nearest_person: tuple[int, int]
    right: tuple[bool, bool]
    """Whether the nearest image shows the query's person."""

    @property
    def change(self) -> float:
        """What B's average precision is above A's."""
        return self.precision[1] - self.precision[0]


@dataclass(frozen=True)
class ComparePage:
    """All that the page shows."""

    first: str
    second: str
    verdict: Difference
    figures: Sequence[Difference]
    counts: tuple[int, int, int, int]
    """Queries with a match, their persons, queries won, queries lost."""
    moved: Sequence[MovedQuery]
    cameras: Sequence[tuple[str, int, float, float, Interval, float]]
    """Name, queries, the figure in A and B, the interval of the difference, and p."""
    spec: Sequence[tuple[str, str, str]]
    lineage: Sequence[tuple[str, str, str]]
    notes: Sequence[str]


@dataclass(frozen=True)
class Bar:
    """A row of a table with an interval drawn beside it, in percent of the chart's width."""

    cells: tuple[str, ...]
    low: float
    width: float
    value: float
    tone: str
    """gain, loss or soft."""
    main: bool


def compare_page(page: ComparePage) -> str:
    """The whole HTML document."""
    queries, persons, won, lost = page.counts
    thumbnails = Thumbnails(BUDGET_BYTES, **SIZE)
    gained = [one for one in page.moved if one.change > 0]
    dropped = [one for one in page.moved if one.change < 0]
    figures = [(one.name == page.verdict.name, one.standing, one.interval, _figure_cells(one)) for one in page.figures]
    cameras = [
        (
            False,
            standing_of(interval, chance),
            interval,
            (name, f"{count:,}", *_numbers(first, second, interval), f"{chance:.2g}"),
        )
        for name, count, first, second, interval, chance in page.cameras
    ]
    return render(
        "run_comparison",
        title={1: "B is better", -1: "B is worse", 0: "No difference shown"}[page.verdict.standing],
        verdict=page.verdict.in_points(),
        decided_by=in_words(page.verdict.name),
        sides=[("A", page.first), ("B", page.second)],
        tiles=_tiles(page.figures, page.verdict.name),
        counts=f"{queries:,} queries of {persons:,} persons: B ranks {won:,} better and {lost:,} worse.",
        notes=page.notes,
        figures=_bars(figures),
        cameras=_bars(cameras),
        won=_grid(gained, thumbnails),
        lost=_grid(dropped, thumbnails),
        won_names=_names(gained),
        lost_names=_names(dropped),
        spec=_differences(page.spec, "field"),
        lineage=_differences(page.lineage, "what"),
    )


def _tiles(figures: Sequence[Difference], main: str) -> list[Tile]:
    return [
        Tile(
            in_words(one.name),
            100 * one.second,
            100 * one.first,
            note=f"({_between(one.interval)})",
            main=one.name == main,
            by_chance=not one.standing,
        )
        for one in figures
    ]


def _figure_cells(one: Difference) -> tuple[str, ...]:
    return (in_words(one.name), *_numbers(one.first, one.second, one.interval), f"{one.chance:.2g}")


def _numbers(first: float, second: float, interval: Interval) -> tuple[str, ...]:
    return f"{100 * first:.1f}", f"{100 * second:.1f}", _signed(interval.value), _between(interval)


def _between(interval: Interval) -> str:
    return f"{_signed(interval.low)} to {_signed(interval.high)}" if interval.known else "one person"


def _signed(fraction: float) -> str:
    return f"{round(100 * fraction, 1) + 0.0:+.1f}".replace("-", "\u2212")


def _bars(rows: Sequence[tuple[bool, int, Interval, tuple[str, ...]]]) -> list[Bar]:
    """The rows with their intervals on one axis, whose middle is 0."""
    ends = [(one.low, one.high) if one.known else (one.value, one.value) for _, _, one, _ in rows]
    reach = max((max(abs(low), abs(high)) for low, high in ends), default=0) or 1
    tones = {1: "gain", -1: "loss", 0: "soft"}

    def place(value: float) -> float:
        return 50 + 48 * value / reach

    return [
        Bar(cells, place(low), place(high) - place(low), place(one.value), tones[standing], main)
        for (main, standing, one, cells), (low, high) in zip(rows, ends, strict=True)
    ]


def _grid(moved: Sequence[MovedQuery], thumbnails: Thumbnails) -> MatchGrid:
    """A row for each query whose pictures can be read here: the query, A's nearest image and B's."""
    rows = []
    for one in moved:
        query = thumbnails.uri_if_possible(one.paths[0]) or thumbnails.uri_if_possible(one.paths[1])
        if query is None:
            continue
        tooltip = f"{one.name}\nquery: person {one.person}, camera {one.camera}"
        pictures = [Picture("query", query, f"camera {one.camera}", tooltip)]
        for side, name in enumerate("AB"):
            path = one.nearest[side]
            uri = thumbnails.uri_if_possible(path) if path else None
            if uri:
                kind = "right" if one.right[side] else "wrong"
                text = f"{PurePosixPath(path).name}\nnearest in {name}: {_who(one.nearest_person[side])}"
                pictures.append(Picture(kind, uri, f"in {name}", text))
        before, after = one.precision
        first, second = one.first_match
        lines = (f"AP {100 * before:.0f} \u2192 {100 * after:.0f} %", f"first right {first} \u2192 {second}")
        rows.append(GridRow(one.person, lines, tuple(pictures)))
    return MatchGrid(tuple(rows), 0)


def _who(person: int) -> str:
    return "a distractor" if person == 0 else f"person {person}"


def _names(moved: Sequence[MovedQuery]) -> Table:
    """The same queries by name."""
    rows = [
        [
            one.name,
            str(one.camera),
            *(f"{100 * value:.1f}" for value in one.precision),
            _signed(one.change),
            *(
                f"{PurePosixPath(path).name} {RIGHT if right else WRONG}"
                for path, right in zip(one.nearest, one.right, strict=True)
            ),
        ]
        for one in moved
    ]
    return Table(["query", "camera", "AP in A", "AP in B", "change", "nearest in A", "nearest in B"], rows)


def _differences(rows: Sequence[tuple[str, str, str]], head: str) -> Table | None:
    if not rows:
        return None
    return Table([head, "A", "B"], [[name, _shortened(a), _shortened(b)] for name, a, b in rows])


def _shortened(value: str) -> str:
    return value if len(value) <= LINES_SHOWN else f"{value[: LINES_SHOWN - 1]}\u2026"
