"""The evaluate stage's HTML report: what training and re-ranking gained, sampled matches, and thresholds."""

from collections.abc import Sequence
from dataclasses import dataclass

from reid.choice import Answer
from reid.data.findings import counted
from reid.reports import plots
from reid.reports.blocks import Table, Tile
from reid.reports.camera_grid import camera_grid, worst_pairs
from reid.reports.match_grid import SIZE, match_grid
from reid.reports.matches import MatchRow
from reid.reports.page import render
from reid.reports.thumbnails import Thumbnails
from reid.scoring.camera_pairs import CameraPair
from reid.scoring.confidence import Interval
from reid.scoring.curves import KINDS, Curve
from reid.scoring.sets import SetFigures
from reid.scoring.verification import PairHistogram, RocRow, ThresholdRow

SAMPLED_BUDGET_BYTES = 950_000
HARDEST_BUDGET_BYTES = 450_000
"""Bytes of thumbnails; the whole page stays under 2 MB, which Kubeflow's user interface still shows."""
HARDEST_RANKS = 8
CHARTED = ("best F1", "1 % let in", "0.1 % let in")
"""Names of the thresholds that the chart shows; the table shows all."""
SAMPLED_RANKS = 10
TABLE_RANKS = (1, 5, 10, 20, 50)
"""CMC ranks that have a column, as far as the curve reaches."""
WORST_PAIRS = 20
"""Rows of the list of the worst pairs of cameras, which stands in the place of too large a grid."""
CHART_INCHES = (5.6, 4.0)
"""Smaller than a chart in a file of its own, so that its text is as large as the page's."""


@dataclass(frozen=True)
class Evaluation:
    """All that the page shows."""

    subtitle: str
    curves: Sequence[Curve]
    headline: str
    """"reranked" or "plain": the ranking of the headline figures."""
    sampled: Sequence[MatchRow]
    sampled_note: str
    hardest: Sequence[MatchRow]
    pairs: PairHistogram | None
    """None if no pair can be judged; then there are no thresholds either."""
    thresholds: Sequence[ThresholdRow]
    roc: Sequence[RocRow]
    settings: Sequence[tuple[str, str]]
    trained_on: Sequence[tuple[str, int]] = ()
    """Name and number of images of each training set; empty if there is one without a name."""
    sets: Sequence[SetFigures] = ()
    """The figures on each test set, the main one first; they are shown if there are several test or training sets."""
    pairs_of_cameras: Sequence[CameraPair] = ()
    choice: str = ""
    """Whether the best checkpoint was chosen on these images, as a sentence."""
    chosen_on_test: Answer = "unknown"


def evaluation_page(evaluation: Evaluation) -> str:
    """The whole HTML document."""
    sampled = Thumbnails(SAMPLED_BUDGET_BYTES, **SIZE)
    hardest = Thumbnails(HARDEST_BUDGET_BYTES, **SIZE)
    persons, few = _persons(evaluation)
    cameras = camera_grid(evaluation.pairs_of_cameras)
    return render(
        "evaluation",
        subtitle=evaluation.subtitle,
        tiles=_tiles(evaluation),
        choice=evaluation.choice,
        tone="note" if evaluation.chosen_on_test == "no" else "warning",
        cmc_chart=_cmc_chart(evaluation),
        rankings=_rankings(evaluation),
        persons=persons,
        few=few,
        ranking=KINDS[evaluation.headline].removeprefix("trained, "),
        sampled=match_grid(evaluation.sampled, sampled, ranks=SAMPLED_RANKS),
        sampled_note=evaluation.sampled_note,
        hardest=match_grid(evaluation.hardest, hardest, ranks=HARDEST_RANKS, first_right=True),
        sets=_sets(evaluation),
        trained_on=", ".join(f"{name} ({images:,} images)" for name, images in evaluation.trained_on),
        distance_chart=_distance_chart(evaluation),
        thresholds=_thresholds(evaluation),
        settings=evaluation.settings,
        cameras=cameras,
        roomy=cameras is not None and cameras.roomy,
        worst_pairs=_worst_pairs(evaluation.pairs_of_cameras) if evaluation.pairs_of_cameras and not cameras else None,
    )


def _tiles(evaluation: Evaluation) -> list[Tile]:
    curves = {curve.kind: curve for curve in evaluation.curves}
    best = curves[evaluation.headline]
    before = curves.get("untrained_reranked" if evaluation.headline == "reranked" else "untrained")
    ranking = best.name.removeprefix("trained, ")
    training = "by training" if before else ""
    plain, reranked = curves["plain"], curves["reranked"]
    ranges = (part.range_in_percent if part else "" for part in (best.mAP_interval, best.rank1_interval))
    of_mAP, of_rank1 = (f"95 %: {text}" if text else "" for text in ranges)
    mAP, rank1 = (100 * before.mAP, 100 * before.rank1) if before else (None, None)
    return [
        Tile(f"mAP, {ranking}", 100 * best.mAP, mAP, note=training, range=of_mAP, main=True),
        Tile(f"rank-1, {ranking}", 100 * best.rank1, rank1, note=training, range=of_rank1, main=True),
        Tile("mAP, plain to re-ranked", 100 * reranked.mAP, 100 * plain.mAP, note="by re-ranking"),
        Tile("rank-1, plain to re-ranked", 100 * reranked.rank1, 100 * plain.rank1, note="by re-ranking"),
    ]


def _cmc_chart(evaluation: Evaluation) -> str:
    figure = plots.cmc_curve(evaluation.curves)
    figure.set_size_inches(CHART_INCHES)
    return plots.inline_svg(figure, salt="cmc")


def _rankings(evaluation: Evaluation) -> Table:
    """A row for each ranking, in percent."""
    order = [curve for kind in KINDS for curve in evaluation.curves if curve.kind == kind]
    longest = len(order[0].cmc)
    ranks = [rank for rank in TABLE_RANKS if rank <= longest]
    rows = [
        [
            curve.name,
            _with_range(curve.mAP, curve.mAP_interval),
            *(_with_range(float(curve.cmc[rank - 1]), curve.rank1_interval if rank == 1 else None) for rank in ranks),
            f"{100 * curve.mINP:.1f}",
        ]
        for curve in order
    ]
    main = next(number for number, curve in enumerate(order) if curve.kind == evaluation.headline)
    return Table(["ranking", "mAP", *(f"rank-{rank}" for rank in ranks), "mINP"], rows, main=main)


def _with_range(value: float, interval: Interval | None) -> str:
    """A cell in percent, its interval on a second line."""
    return f"{100 * value:.1f}" + (f"\n{interval.range_in_percent}" if interval and interval.known else "")


def _persons(evaluation: Evaluation) -> tuple[str, bool]:
    """How many persons the intervals are of, and whether these are few."""
    found = next(curve for curve in evaluation.curves if curve.kind == evaluation.headline).mAP_interval
    return (counted(found.persons, "person"), found.few) if found else ("the persons", False)


def _sets(evaluation: Evaluation) -> Table | None:
    """A row for each test set, in percent; None if there is one test set and one training set."""
    if len(evaluation.sets) < 2 and not evaluation.trained_on:
        return None
    rows = [
        [
            part.name,
            "yes" if part.trained_on else "no",
            *(
                _with_range(found.value, found)
                for found in (part.mAP, part.rank1, part.reranked_mAP, part.reranked_rank1)
            ),
            f"{part.mAP.persons:,}",
            f"{part.queries:,}",
            f"{part.gallery:,}",
        ]
        for part in evaluation.sets
    ]
    figures = ("mAP", "rank-1", "mAP, re-ranked", "rank-1, re-ranked")
    return Table(["tested on", "also trained on", *figures, "persons", "queries", "gallery"], rows, main=0)


def _worst_pairs(pairs: Sequence[CameraPair]) -> Table:
    """A row for each of the worst pairs, in percent."""
    rows = [
        [
            f"camera {pair.query_camera} in camera {pair.gallery_camera}",
            pair.mAP.in_percent,
            pair.rank1.in_percent,
            *(f"{count:,}" for count in (pair.queries, pair.persons, pair.gallery)),
        ]
        for pair in worst_pairs(pairs, count=WORST_PAIRS)
    ]
    return Table(["queries", "mAP", "rank-1", "queries", "persons", "gallery"], rows)


def _distance_chart(evaluation: Evaluation) -> str | None:
    """None if no pair can be judged."""
    if evaluation.pairs is None:
        return None
    named = {row.name: row.distance for row in evaluation.thresholds if row.name in CHARTED}
    figure = plots.distance_histogram(evaluation.pairs, named)
    figure.set_size_inches(CHART_INCHES)
    return plots.inline_svg(figure, salt="distances")


def _thresholds(evaluation: Evaluation) -> Table:
    """A row for each threshold, shares in percent."""
    rows = [
        [
            row.name,
            f"{row.distance:.3f}",
            f"{1 - row.distance / 2:.3f}",
            f"{100 * row.true_match_rate:.1f}",
            f"{100 * row.false_match_rate:.2g}",
            f"{100 * row.precision:.1f}",
        ]
        for row in evaluation.thresholds
    ]
    return Table(["aim", "distance \u2264", "cosine \u2265", "found", "let in", "precision"], rows)
