"""The bench's picture: on the left how many times as fast as the textbook, on the right what share of the limit."""

from pathlib import Path
from typing import Any

from tests.bench.rows import Row, ratio

INK, MUTED, OURS, MARK = "#222222", "#777777", "#2a78b5", "#d1495b"
PANELS = {
    "textbook": ("times as fast as what the table names", 1.0),
    "limit": ("% of the fastest possible, or of the goal", 100.0),
}


def draw(rows: list[Row], path: Path, *, title: str) -> None:
    """A line of bars for each row that has a textbook side or a limit; nothing is drawn where none has."""
    from matplotlib.figure import Figure

    shown = [found for found in rows if ratio(found, "textbook") or ratio(found, "limit")][::-1]
    kinds = [kind for kind in PANELS if any(ratio(found, kind) for found in shown)]
    if not shown:
        return
    figure = Figure(figsize=(4.6 + 4.2 * len(kinds), 0.36 * len(shown) + 1.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=MUTED)
    panels = figure.subplots(1, len(kinds), sharey=True, squeeze=False)[0]
    for axes, kind in zip(panels, kinds):
        _panel(axes, shown, kind)
    panels[0].set_yticks(range(len(shown)), [f"{found['what']}  {_figure(found)}" for found in shown], fontsize=9)
    panels[0].set_ylim(-0.7, len(shown) - 0.3)
    figure.savefig(path, dpi=120)


def _panel(axes: Any, shown: list[Row], kind: str) -> None:
    from matplotlib.ticker import NullLocator

    label, one = PANELS[kind]
    values = [ratio(found, kind) for found in shown]
    for place, value in enumerate(values):
        if value:
            axes.barh(place, one * value, color=OURS, height=0.62)
            told = f"{value:.1f} x" if kind == "textbook" else f"{100 * value:.0f} %"
            axes.annotate(told, (one * value, place), (5, 0), textcoords="offset points", va="center", color=INK)
    axes.axvline(one, color=MARK, linewidth=1.5)
    axes.set_title(label, loc="left", fontsize=10, color=INK)
    axes.spines[["top", "right"]].set_visible(False)
    most = max(value for value in values if value)
    if kind == "limit":
        axes.set_xlim(0, 1.2 * max(100.0, 100 * most))
        return
    axes.set_xscale("log")
    least = min([0.5, *(0.8 * value for value in values if value)])
    axes.set_xlim(least, 2.5 * max(2.0, most))
    axes.set_xticks(
        [tick for tick in (0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 1000) if least <= tick <= 2.5 * max(2.0, most)]
    )
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_locator(NullLocator())


def draw_curves(curves: dict[str, list[float]], path: Path, *, title: str) -> None:
    """Loss over steps: the curve of each name but `step`."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    for (name, values), colour in zip(((name, curves[name]) for name in curves if name != "step"), (OURS, MARK)):
        axes.plot(curves["step"], values, color=colour, linewidth=1.5, marker=".", label=name)
    axes.set_title(title, loc="left", fontsize=10, color=MUTED)
    axes.set_xlabel("step")
    axes.set_ylabel("loss")
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def _figure(found: Row) -> str:
    value = found["value"]
    return f"{value:,.0f} {found['unit']}" if value >= 100 else f"{value:.3g} {found['unit']}"
