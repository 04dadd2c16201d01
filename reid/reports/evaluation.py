"""The evaluate stage's HTML report: what training and re-ranking gave, matches to look at, a distance to trust."""

from collections.abc import Sequence
from dataclasses import dataclass

from reid.reports import html as report
from reid.reports import plots
from reid.reports.html import Thumbnails, Tile
from reid.reports.matches import MatchRow
from reid.scoring import KINDS, Curve, PairHistogram, RocRow, ThresholdRow

SAMPLED_BUDGET_BYTES = 950_000
HARDEST_BUDGET_BYTES = 450_000
"""Of thumbnails; the whole page stays under 2 MB, which Kubeflow's page shows."""
HARDEST_RANKS = 8
CHARTED = ("best F1", "1 % let in", "0.1 % let in")
"""Thresholds that stand in the chart; all are in the table."""
SAMPLED_RANKS = 10
CHART_INCHES = (5.6, 4.0)
"""Smaller than on their own, so that the text is as large as the page's."""


@dataclass(frozen=True)
class Evaluation:
    """All that the page shows."""

    subtitle: str
    curves: Sequence[Curve]
    headline: str
    """"reranked" or "plain": which of the curves counts."""
    sampled: Sequence[MatchRow]
    sampled_note: str
    hardest: Sequence[MatchRow]
    pairs: PairHistogram | None
    """None where no pair can be judged; then there are no thresholds either."""
    thresholds: Sequence[ThresholdRow]
    roc: Sequence[RocRow]
    settings: Sequence[tuple[str, str]]


def evaluation_page(evaluation: Evaluation) -> str:
    """The whole HTML document."""
    sampled, hardest = Thumbnails(SAMPLED_BUDGET_BYTES), Thumbnails(HARDEST_BUDGET_BYTES)
    ranking = KINDS[evaluation.headline].removeprefix("trained, ")
    return report.page(
        "Evaluation",
        subtitle=evaluation.subtitle,
        blocks=[
            report.tiles(_tiles(evaluation)),
            report.section("Figures", report.pair(_chart(evaluation), _figures(evaluation))),
            report.section(
                f"Sampled matches, {ranking}",
                report.card(report.match_grid(evaluation.sampled, sampled, ranks=SAMPLED_RANKS)),
                note=f"{evaluation.sampled_note} Under an image: distance and camera. Point at an image to see more.",
            ),
            report.section(
                "Hardest queries",
                report.card(
                    report.match_grid(evaluation.hardest, hardest, ranks=HARDEST_RANKS, first_right=True),
                ),
                note="Lowest average precision, with the first right image at the end, wherever it ranks. "
                "Look here for wrong labels, bad crops and clothes that two persons share.",
            ),
            _verification(evaluation),
            report.section("Settings", report.card(report.settings(evaluation.settings))),
        ],
    )


def _tiles(evaluation: Evaluation) -> list[Tile]:
    curves = {curve.kind: curve for curve in evaluation.curves}
    best = curves[evaluation.headline]
    before = curves.get("untrained_reranked" if evaluation.headline == "reranked" else "untrained")
    ranking = best.name.removeprefix("trained, ")
    training = "by training" if before else ""
    plain, reranked = curves["plain"], curves["reranked"]
    return [
        Tile(f"mAP, {ranking}", 100 * best.mAP, 100 * before.mAP if before else None, note=training, main=True),
        Tile(f"rank-1, {ranking}", 100 * best.rank1, 100 * before.rank1 if before else None, note=training, main=True),
        Tile("mAP, plain to re-ranked", 100 * reranked.mAP, 100 * plain.mAP, note="by re-ranking"),
        Tile("rank-1, plain to re-ranked", 100 * reranked.rank1, 100 * plain.rank1, note="by re-ranking"),
    ]


def _chart(evaluation: Evaluation) -> str:
    figure = plots.cmc_curve(evaluation.curves)
    figure.set_size_inches(CHART_INCHES)
    return report.card(plots.inline_svg(figure, salt="cmc"))


def _figures(evaluation: Evaluation) -> str:
    order = [curve for kind in KINDS for curve in evaluation.curves if curve.kind == kind]
    longest = len(order[0].cmc)
    ranks = [rank for rank in (1, 5, 10, 20, 50) if rank <= longest]
    rows = [
        [
            curve.name,
            *(f"{100 * share:.1f}" for share in (curve.mAP, *curve.cmc[[k - 1 for k in ranks]], curve.mINP)),
        ]
        for curve in order
    ]
    main = next(number for number, curve in enumerate(order) if curve.kind == evaluation.headline)
    head = ["ranking", "mAP", *(f"rank-{rank}" for rank in ranks), "mINP"]
    legend = (
        '<p class="soft">In percent; bold is the headline (re_ranking.re_ranking). mAP: mean average precision. '
        "Rank-k: queries with a right image among the first k. mINP: right images over the rank of the last of them; "
        "100 means that no wrong image stands before it.</p>"
    )
    return report.card(report.table(head, rows, main=main), legend)


def _verification(evaluation: Evaluation) -> str:
    if evaluation.pairs is None:
        return ""
    named = {row.name: row.distance for row in evaluation.thresholds if row.name in CHARTED}
    figure = plots.distance_histogram(evaluation.pairs, named)
    figure.set_size_inches(CHART_INCHES)
    return report.section(
        "Which distance means the same person?",
        report.pair(report.card(plots.inline_svg(figure, salt="distances")), _thresholds(evaluation)),
        note="Pairs of a query and a gallery image of another camera or person, by the plain distance: a re-ranked "
        "distance depends on the whole gallery and cannot judge one pair.",
    )


def _thresholds(evaluation: Evaluation) -> str:
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
    head = ["aim", "distance \u2264", "cosine \u2265", "found", "let in", "precision"]
    legend = (
        '<p class="soft">Distance: squared Euclidean of normalised embeddings, 2 - 2 cosine. In percent: found, pairs '
        "of the same person within it; let in, pairs of different persons within it; precision, right ones of all "
        "within it. The first two carry over to other galleries of this kind; precision falls as the gallery grows.</p>"
    )
    return report.card(report.table(head, rows), legend)
