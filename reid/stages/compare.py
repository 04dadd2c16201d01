"""Is B better than A? Two evaluations of the same images, compared query by query.

Shapes: Q queries.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.data.findings import counted
from reid.errors import ArtifactError, DatasetError, ReidError
from reid.files.writing import write_text
from reid.reports.run_comparison import ComparePage, MovedQuery, compare_page
from reid.scoring.confidence import FEW_PERSONS, Interval, difference_interval
from reid.scoring.paired import FEWEST_PERSONS, Difference, differences, sign_flips, values_of
from reid.scoring.per_query import PerQuery
from reid.scoring.same_queries import same_queries
from reid.stages.compare_sides import Side, read_side

SEED = 0
"""Of the drawn persons and signs: the same two evaluations always give the same verdict."""
MOST_MOVED = 12
"""Queries won, and queries lost, that are shown."""
NO_DIFFERENCE = {"results_dir", "mlflow.run_name"}
"""Fields of the spec that differ between any two runs."""


@dataclass(frozen=True)
class CameraDifference:
    """The headline's average precision over the queries of one camera."""

    camera: int
    queries: int
    first: float
    second: float
    interval: Interval
    chance: float
    """p of the permutation test."""


@dataclass(frozen=True)
class Compared:
    """All that is known of the question whether B is better than A."""

    first: Side
    second: Side
    figures: Sequence[Difference]
    headline: str
    """Name of the figure that decides: mAP or reranked_mAP."""
    persons: int
    queries: int
    """With a match."""
    won: int
    """Queries whose average precision is higher in B."""
    lost: int
    moved: Sequence[MovedQuery]
    """The largest gains, then the largest losses."""
    cameras: Sequence[CameraDifference]
    spec: Sequence[tuple[str, str, str]]
    """Field of the spec, its value in A and in B, of fields that differ."""
    lineage: Sequence[tuple[str, str, str]]
    notes: Sequence[str]

    @property
    def verdict(self) -> Difference:
        """The figure that decides."""
        return next(one for one in self.figures if one.name == self.headline)


def compare(first: str, second: str, *, figure: str | None = None) -> Compared:
    """The comparison of two evaluations, each named by a run's id, a folder of results or a per_query.csv.

    `figure` is the name of the figure that decides; None: mAP in B's headline ranking. Raises ArtifactError or
    TrackingError if a side cannot be read, DatasetError if they were not measured on the same images.
    """
    with TemporaryDirectory(prefix="reid-compare-") as folder:
        sides = [read_side(given, scratch=Path(folder, name)) for given, name in ((first, "a"), (second, "b"))]
    _refuse_one_run(first, second, *sides)
    notes = _require_same_images(*sides)
    same = same_queries(sides[0].table, sides[1].table)
    headline = figure or ("reranked_mAP" if _headline(*sides) == "reranked" else "mAP")
    return _compared(sides[0], sides[1], same.first, same.second, headline=headline, notes=notes)


def _compared(
    first: Side, second: Side, ours: PerQuery, theirs: PerQuery, *, headline: str, notes: list[str]
) -> Compared:
    figures = differences(ours, theirs, seed=SEED)
    before, after = values_of(ours, headline), values_of(theirs, headline)
    change = after - before
    known = np.isfinite(change)
    persons = figures[0].interval.persons
    if persons < FEWEST_PERSONS:
        notes.append(f"only {counted(persons, 'person')}: with fewer than {FEWEST_PERSONS} no difference can be shown")
    elif figures[0].interval.few:
        notes.append(f"only {counted(persons, 'person')}: with fewer than {FEW_PERSONS} the intervals are too narrow")
    if not change[known].any():
        notes.append("every query has the same value in A and in B")
    if not first.spec or not second.spec:
        unknown = " and ".join(name for name, side in (("A", first), ("B", second)) if not side.spec)
        notes.append(f"the spec of {unknown} is not known, so no fields are compared")
    kind = "reranked" if headline.startswith("reranked_") else "plain"
    return Compared(
        first,
        second,
        figures,
        headline,
        persons=persons,
        queries=int(known.sum()),
        won=int((change[known] > 0).sum()),
        lost=int((change[known] < 0).sum()),
        moved=_moved(change, ours, theirs, kind=kind),
        cameras=_by_camera(ours, before, after),
        spec=_differing(first.spec, second.spec) if first.spec and second.spec else [],
        lineage=_differing(first.lineage, second.lineage, both=True),
        notes=notes,
    )


def _refuse_one_run(first: str, second: str, a: Side, b: Side) -> None:
    same_run = a.run_id and a.run_id == b.run_id and a.store == b.store
    if same_run or (not a.run_id and not b.run_id and Path(first).resolve() == Path(second).resolve()):
        raise ArtifactError(f"{first} and {second}: A and B are the same\n  want: two evaluations")


def _require_same_images(a: Side, b: Side) -> list[str]:
    """Raises DatasetError if the images are known to differ; returns a note if that is not known."""
    if a.evaluated_images and b.evaluated_images:
        if a.evaluated_images != b.evaluated_images:
            same_queries(a.table, b.table)  # says how many queries differ, if they do
            raise DatasetError(
                "A and B were not measured on the same images: the queries have the same names, but the gallery or "
                "the images themselves differ\n"
                f"  A: {_gallery(a)}, hash {a.evaluated_images[:12]}\n"
                f"  B: {_gallery(b)}, hash {b.evaluated_images[:12]}\n"
                "  want: two evaluations of the same test set"
            )
        return []
    if a.gallery and b.gallery and a.gallery != b.gallery:
        raise DatasetError(
            f"A was measured on {a.gallery:,} gallery images and B on {b.gallery:,}\n"
            "  want: two evaluations of the same test set"
        )
    unknown = " and ".join(name for name, side in (("A", a), ("B", b)) if not side.evaluated_images)
    return [f"which images were evaluated is not known of {unknown}: only the queries' names were compared"]


def _gallery(side: Side) -> str:
    return counted(side.gallery, "gallery image") if side.gallery else "a gallery of unknown size"


def _headline(a: Side, b: Side) -> str:
    return b.headline or a.headline or "plain"


def _moved(change: NDArray[np.float64], ours: PerQuery, theirs: PerQuery, *, kind: str) -> list[MovedQuery]:
    """The queries that gained most, largest first, then those that lost most, largest first."""
    order = np.argsort(np.where(np.isfinite(change), change, 0), kind="stable")
    won = [row for row in order[::-1][:MOST_MOVED].tolist() if change[row] > 0]
    lost = [row for row in order[:MOST_MOVED].tolist() if change[row] < 0]
    before, after = ours.rankings[kind], theirs.rankings[kind]
    names = ours.names()
    return [
        MovedQuery(
            name=names[row],
            paths=(ours.paths[row], theirs.paths[row]),
            person=int(ours.person[row]),
            camera=int(ours.camera[row]),
            precision=(float(before.average_precision[row]), float(after.average_precision[row])),
            first_match=(int(before.first_match_rank[row]), int(after.first_match_rank[row])),
            nearest=(before.top1[row], after.top1[row]),
            nearest_person=(int(before.top1_person[row]), int(after.top1_person[row])),
            right=(int(before.first_match_rank[row]) == 1, int(after.first_match_rank[row]) == 1),
        )
        for row in [*won, *lost]
    ]


def _by_camera(table: PerQuery, before: NDArray[np.float64], after: NDArray[np.float64]) -> list[CameraDifference]:
    rows = []
    for camera in np.unique(table.camera).tolist():
        here = (table.camera == camera) & np.isfinite(before) & np.isfinite(after)
        if here.any():
            interval = difference_interval(after[here], before[here], table.person[here], seed=SEED)
            mean = float(before[here].mean()), float(after[here].mean())
            chance = sign_flips((after - before)[here], table.person[here], seed=SEED)
            rows.append(CameraDifference(camera, int(here.sum()), *mean, interval, chance))
    return rows


def _differing(
    first: Mapping[str, str], second: Mapping[str, str], *, both: bool = False
) -> list[tuple[str, str, str]]:
    """The names whose values differ; with `both`, only those that both sides know."""
    names = first.keys() & second.keys() if both else first.keys() | second.keys()
    return [
        (name, first.get(name, "not set"), second.get(name, "not set"))
        for name in sorted(names - NO_DIFFERENCE)
        if first.get(name) != second.get(name)
    ]


def write_page(found: Compared, path: Path) -> None:
    """Writes the comparison as one HTML file."""
    write_text(path, compare_page(page_of(found)))


def page_of(found: Compared) -> ComparePage:
    """The comparison as the page shows it."""
    return ComparePage(
        first=found.first.title,
        second=found.second.title,
        verdict=found.verdict,
        figures=found.figures,
        counts=(found.queries, found.persons, found.won, found.lost),
        moved=found.moved,
        cameras=[
            (f"camera {one.camera}", one.queries, one.first, one.second, one.interval, one.chance)
            for one in found.cameras
        ],
        spec=found.spec,
        lineage=found.lineage,
        notes=found.notes,
    )


def as_json(found: Compared) -> str:
    """The comparison as JSON: fractions, not percent."""

    def figure(one: Difference) -> dict[str, Any]:
        verdict = {1: "better", -1: "worse", 0: "no difference shown"}[one.standing]
        return {
            "a": one.first,
            "b": one.second,
            "verdict": verdict,
            "permutation_p": one.chance,
            **_interval(one.interval),
        }

    content = {
        "a": found.first.title,
        "b": found.second.title,
        "decided_by": found.headline,
        "b_is_better": found.verdict.standing > 0,
        "said": found.verdict.in_words(),
        "figures": {one.name: figure(one) for one in found.figures},
        "queries": {"with_a_match": found.queries, "persons": found.persons, "won": found.won, "lost": found.lost},
        "cameras": [
            {
                "camera": one.camera,
                "queries": one.queries,
                "a": one.first,
                "b": one.second,
                "permutation_p": one.chance,
                **_interval(one.interval),
            }
            for one in found.cameras
        ],
        "largest_changes": [asdict(one) for one in found.moved],
        "spec": {name: [a, b] for name, a, b in found.spec},
        "lineage": {name: [a, b] for name, a, b in found.lineage},
        "notes": list(found.notes),
    }
    return json.dumps(content, indent=2) + "\n"


def _interval(interval: Interval) -> dict[str, float | None]:
    """The ends are None if there is one person only."""
    low, high = (interval.low, interval.high) if interval.known else (None, None)
    return {"difference": interval.value, "low": low, "high": high}


def add_to_mlflow(found: Compared, page: Path) -> str:
    """Copies the page into B's run; returns what was done as a sentence, "" if B is no run. A failure fails nothing."""
    if not found.second.run_id:
        return ""
    from reid.tracking.recorded import add_artifact

    try:
        add_artifact(found.second.store, found.second.run_id, page, "compare")
    except ReidError as error:
        return f"not added to MLflow: {error}"
    return f"in MLflow: run {found.second.run_id}, artifact compare/{page.name}"
