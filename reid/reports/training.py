"""The train stage's HTML report: what training gained, its curves, the weights it began with, and its settings."""

from collections.abc import Mapping, Sequence

from reid.reports import plots
from reid.reports.blocks import Table, Tile
from reid.reports.page import render

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
"""Key of a row of the history -> heading, format and factor of its column."""


def training_page(
    history: Sequence[Mapping[str, float]],
    *,
    best: Mapping[str, float],
    subtitle: str,
    ranked_on: str,
    weights: Sequence[str],
    settings: Sequence[tuple[str, str]],
) -> str:
    """The whole HTML document.

    history: one row for each epoch, the untrained network first; best: the row of the best checkpoint;
    ranked_on: the images of which mAP and rank-k are, in words;
    weights: the weights report's lines ("name: value"), none if training began with random weights.
    """
    return render(
        "training",
        subtitle=subtitle,
        tiles=_tiles(history[0], best),
        curves=plots.inline_svg(plots.training_figure(history), salt="training"),
        epochs=_epochs(history, best),
        ranked_on=ranked_on,
        weights=_weights(weights),
        settings=settings,
    )


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


def _epochs(history: Sequence[Mapping[str, float]], best: Mapping[str, float]) -> Table:
    rows = [
        [
            "untrained" if row["epoch"] < 0 else f"{int(row['epoch']) + 1}",
            *(form.format(factor * row[name]) if name in row else "" for name, (_, form, factor) in COLUMNS.items()),
        ]
        for row in history
    ]
    main = next((number for number, row in enumerate(history) if row["epoch"] == best.get("epoch")), None)
    return Table(["epochs done", *(heading for heading, _, _ in COLUMNS.values())], rows, main=main)


def _weights(lines: Sequence[str]) -> list[tuple[str, str]]:
    parted = [line.strip().partition(": ") for line in lines] or [("random", "", "no weights were loaded")]
    return [(name, value) for name, _, value in parted]
