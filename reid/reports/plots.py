"""Charts: CMC curves, training curves, distances of pairs. The sheet of sampled matches is in sheet.py.

Each function returns a matplotlib Figure; `save` writes it to a file, `inline_svg` returns it for an HTML page. No
pyplot is used, so no display and no global state. Colour-blind people can tell the colours apart.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from reid.files.writing import replacing
from reid.scoring.curves import Curve
from reid.scoring.verification import PairHistogram

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK, MUTED, GRID, PAPER = "#20252b", "#68707b", "#dfe3e8", "#ffffff"
BLUE, ORANGE, GREY = "#2b83c6", "#d9690f", "#8a929c"
DPI, LARGEST_PIXELS = 150, 12_000

STYLES = {
    "reranked": (ORANGE, "-"),
    "plain": (BLUE, "-"),
    "untrained_reranked": (GREY, "--"),
    "untrained": (GREY, "-"),
}
"""Kind of ranking -> its colour and line style."""


def save(figure: "Figure", *outputs: Path) -> None:
    """Writes a figure to .png, .svg or .pdf files; the same figure gives the same bytes."""
    import matplotlib

    largest = max(figure.get_size_inches())
    for output in outputs:
        form = output.suffix.lstrip(".").lower()
        metadata: dict[str, Any] = {"png": {"Software": None}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}
        with matplotlib.rc_context({"svg.hashsalt": output.name}), replacing(output) as partial:
            dpi = min(DPI, LARGEST_PIXELS / largest)
            figure.savefig(partial, format=form, dpi=dpi, facecolor=PAPER, metadata=metadata.get(form))


def inline_svg(figure: "Figure", *, salt: str) -> str:
    """The figure as an <svg> element whose text is text and whose ink follows the page's CSS variables."""
    import matplotlib

    file = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in ((INK, "--ink"), (MUTED, "--muted"), (GRID, "--grid"), (PAPER, "--paper")):
        text = text.replace(colour, f"var({variable})")
    return re.sub(r' (width|height)="[\d.]+pt"', "", text, count=2)


def cmc_curve(curves: Sequence[Curve]) -> "Figure":
    """Share of queries with a right image at each CMC rank or before, one line for each ranking."""
    figure, (axes,) = _figure(width=7.2, height=4.4, panels=1)
    lowest = 1.0
    for curve in sorted(curves, key=lambda one: list(STYLES).index(one.kind)):
        name, (colour, line) = curve.name, STYLES[curve.kind]
        rank = np.arange(1, len(curve.cmc) + 1)
        label = f"{name}: mAP {100 * curve.mAP:.1f}, rank-1 {100 * curve.rank1:.1f}"
        marker = "o" if len(rank) <= 30 and line == "-" else ""
        axes.plot(rank, 100 * curve.cmc, line, color=colour, lw=2, marker=marker, ms=4, label=label)
        lowest = min(lowest, float(curve.cmc[0]))
        found = curve.rank1_interval
        if found and found.known and not curve.kind.startswith("untrained"):
            at = 1 - 0.1 * (2 if curve.kind == "reranked" else 1) if len(rank) <= 30 else 1  # side by side
            axes.vlines(at, 100 * found.low, 100 * found.high, color=colour, lw=1.6, alpha=0.75)
            lowest = min(lowest, found.low)
    longest = max(len(curve.cmc) for curve in curves)
    axes.set_ylim(max(0, math.floor(10 * lowest - 0.5) * 10), 100.8)
    axes.set_xlim(0.7, max(longest, 2) + 0.3)
    axes.set_xticks(_rank_ticks(longest))
    axes.set_xlabel("rank")
    axes.set_ylabel("queries with a right image by this rank, %")
    _title(axes, "Cumulative matching characteristic")
    axes.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK, handlelength=2.6)
    return figure


def _rank_ticks(longest: int) -> list[int]:
    step = max(1, round(longest / 10))
    return sorted({1, *range(step if step > 1 else 1, longest + 1, step)})


def training_figure(history: Sequence[Mapping[str, Any]]) -> "Figure":
    """Panels over epochs done (0: untrained): loss, mAP with rank-1, learning rate; from the rows of history.json."""
    from matplotlib.ticker import MaxNLocator

    figure, (loss, accuracy, rate) = _figure(width=11.5, height=3.4, panels=3)
    _line(loss, history, "train_loss", "training loss", BLUE)
    _line(accuracy, history, "mAP", "mAP", BLUE, scale=100)
    _line(accuracy, history, "rank1", "rank-1", ORANGE, scale=100)
    _line(rate, history, "learning_rate", "learning rate", BLUE)
    _title(loss, "Training loss")
    _title(accuracy, "Validation, plain ranking, %")
    _title(rate, "Learning rate")
    loss.set_ylim(bottom=0)
    accuracy.set_ylim(0, 100)
    rate.set_ylim(bottom=0)
    rate.yaxis.set_major_formatter(lambda value, _: f"{value:.3g}")
    if accuracy.lines:
        accuracy.legend(loc="best", frameon=False, fontsize=9, labelcolor=INK)
    for axes in (loss, accuracy, rate):
        axes.set_xlabel("epochs done")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    return figure


def training_curves(history: Sequence[Mapping[str, Any]], output: Path) -> None:
    """Writes training_figure to a .png, .svg or .pdf file."""
    save(training_figure(history), output)


def _line(
    axes: "Axes", history: Sequence[Mapping[str, Any]], key: str, label: str, colour: str, *, scale: float = 1.0
) -> None:
    points = [
        (int(row["epoch"]) + 1, scale * float(row[key]))
        for row in history
        if row.get(key) is not None and math.isfinite(row[key])
    ]
    if points:
        few = len(points) <= 40
        axes.plot(*zip(*points), color=colour, lw=2, marker="o" if few else "", ms=3.5, label=label)


def distance_histogram(pairs: PairHistogram, thresholds: Mapping[str, float]) -> "Figure":
    """Histograms of the distances of genuine and impostor pairs, in percent of each kind, with named thresholds."""
    figure, (axes,) = _figure(width=7.2, height=4.0, panels=1)
    top = 0.0
    for counts, colour, name in (
        (pairs.impostor, ORANGE, "different persons"),
        (pairs.genuine, BLUE, "same person, other camera"),
    ):
        share = 100 * counts / max(1, counts.sum())
        top = max(top, float(share.max()))
        axes.stairs(share, pairs.edges, color=colour, fill=True, alpha=0.28)
        axes.stairs(share, pairs.edges, color=colour, lw=1.8, label=f"{name} ({counts.sum():,} pairs)")
    ends = sorted(thresholds.items(), key=lambda item: item[1])
    for step, (name, value) in enumerate(ends):
        height = top * (1.12 + 0.10 * (len(ends) - 1 - step))
        _flag(axes, f"{name}: {value:.3f}", value, height, end=float(pairs.edges[-1]))
    axes.set_ylim(0, top * (1.2 + 0.1 * len(ends)))
    axes.set_xlim(float(pairs.edges[0]), float(pairs.edges[-1]))
    axes.set_xlabel("squared Euclidean distance of normalised embeddings, 2 - 2 cos")
    axes.set_ylabel("pairs of that kind, %")
    _title(axes, "Which distance means the same person?")
    figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize=9, labelcolor=INK)
    return figure


def _flag(axes: "Axes", text: str, value: float, height: float, *, end: float) -> None:
    """Draws an upright line at `value` with its name at the top, on the side that has room."""
    to_the_right = value < 0.6 * end
    axes.plot([value, value], [0, height], color=INK, lw=1.1, ls=(0, (4, 2)))
    axes.annotate(
        text,
        (value, height),
        (4 if to_the_right else -4, 0),
        textcoords="offset points",
        fontsize=8.5,
        va="center",
        ha="left" if to_the_right else "right",
        color=INK,
        bbox={"facecolor": PAPER, "edgecolor": "none", "pad": 0.6, "alpha": 0.85},
    )


def _figure(*, width: float, height: float, panels: int) -> tuple["Figure", list["Axes"]]:
    """An empty figure (inches) with panels side by side in the project's style."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    every = list(figure.subplots(1, panels, squeeze=False)[0])
    for axes in every:
        axes.spines[["top", "right"]].set_visible(False)
        axes.spines[["left", "bottom"]].set_color(MUTED)
        axes.grid(axis="y", color=GRID, lw=0.8)
        axes.set_axisbelow(True)
        axes.tick_params(colors=INK, labelsize=9, length=3)
        axes.xaxis.label.set(color=INK, fontsize=10)
        axes.yaxis.label.set(color=INK, fontsize=10)
    return figure, every


def _title(axes: "Axes", text: str) -> None:
    axes.set_title(text, loc="left", color=INK, fontsize=11.5, fontweight="bold", pad=10)
