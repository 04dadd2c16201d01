"""The train stage's HTML report: what training gave, its curves, the weights it began with, its settings."""

from collections.abc import Mapping, Sequence

from reid.reports import html as report
from reid.reports import plots
from reid.reports.html import Tile

COLUMNS = {
    "train_loss": ("loss", "{:.3f}", 1.0),
    "accuracy": ("accuracy, %", "{:.1f}", 100.0),
    "learning_rate": ("learning rate", "{:.2g}", 1.0),
    "images_per_second": ("images/s", "{:.0f}", 1.0),
    "mAP": ("mAP, %", "{:.1f}", 100.0),
    "rank1": ("rank-1, %", "{:.1f}", 100.0),
    "rank5": ("rank-5, %", "{:.1f}", 100.0),
    "rank10": ("rank-10, %", "{:.1f}", 100.0),
    "mINP": ("mINP, %", "{:.1f}", 100.0),
}
"""Of a row of the history -> heading, format and factor of the table."""


def training_page(
    history: Sequence[Mapping[str, float]],
    *,
    best: Mapping[str, float],
    subtitle: str,
    weights: Sequence[str],
    settings: Sequence[tuple[str, str]],
) -> str:
    """The whole HTML document. history: rows from the untrained network on; best: the one of the best checkpoint."""
    blocks = [
        report.tiles(_tiles(history[0], best)),
        report.section("Curves", report.card(plots.inline_svg(plots.training_figure(history), salt="training"))),
        report.section(
            "Epochs", report.card(_table(history, best)), note="Ranked plainly; the evaluate stage re-ranks as well."
        ),
        report.section("Weights at the start", report.card(report.settings(_weights(weights)))),
        report.section("Settings", report.card(report.settings(settings))),
    ]
    return report.page("Training", subtitle=subtitle, blocks=blocks)


def _tiles(untrained: Mapping[str, float], best: Mapping[str, float]) -> list[Tile]:
    names = {"mAP": "mAP, plain", "rank1": "rank-1", "rank5": "rank-5", "mINP": "mINP"}
    return [
        Tile(
            label,
            100 * best[name],
            100 * untrained[name] if name in untrained else None,
            note="by training",
            main=name in ("mAP", "rank1"),
        )
        for name, label in names.items()
        if name in best
    ]


def _table(history: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> str:
    rows = [
        [
            "untrained" if row["epoch"] < 0 else f"{int(row['epoch']) + 1}",
            *(form.format(factor * row[name]) if name in row else "" for name, (_, form, factor) in COLUMNS.items()),
        ]
        for row in history
    ]
    main = next((number for number, row in enumerate(history) if row["epoch"] == best.get("epoch")), None)
    return report.table(["epochs done", *(heading for heading, _, _ in COLUMNS.values())], rows, main=main)


def _weights(lines: Sequence[str]) -> list[tuple[str, str]]:
    """The weights report's lines ("name: value") as names and values."""
    parted = [line.strip().partition(": ") for line in lines] or [("random", "", "no weights were loaded")]
    return [(name, value) for name, _, value in parted]
