"""The bench's picture: on the left how many times as fast as the textbook, on the right what share of the limit."""

from pathlib import Path

from tests.bench.rows import Row, ratio

INK, MUTED, OURS, MARK = "#222222", "#777777", "#2a78b5", "#d1495b"
PANELS = {
    "textbook": ("times as fast as the textbook's way, or what the table names", 1.0),
    "limit": ("% of the fastest possible, or of the goal", 100.0),
}


def draw(rows: list[Row], path: Path, *, title: str) -> None:
    """A line of two bars for each row that has a textbook side or a limit; nothing is drawn where none has."""
    from matplotlib.figure import Figure

    shown = [found for found in rows if ratio(found, "textbook") or ratio(found, "limit")][::-1]
    if not shown:
        return
    figure = Figure(figsize=(13, 0.36 * len(shown) + 1.5), layout="constrained")
    figure.suptitle(title, x=0.01, ha="left", fontsize=10, color=MUTED)
    for axes, (kind, (label, one)) in zip(figure.subplots(1, 2, sharey=True), PANELS.items()):
        for place, found in enumerate(shown):
            value = ratio(found, kind)
            if value:
                axes.barh(place, one * value, color=OURS, height=0.62)
                told = f"{value:.1f} x" if kind == "textbook" else f"{100 * value:.0f} %"
                axes.annotate(told, (one * value, place), (5, 0), textcoords="offset points", va="center", color=INK)
        axes.axvline(one, color=MARK, linewidth=1.5)
        axes.set_title(label, loc="left", fontsize=10, color=INK)
        axes.spines[["top", "right"]].set_visible(False)
    left, right = figure.axes
    left.set_xscale("log")
    times = [value for found in shown if (value := ratio(found, "textbook"))]
    left.set_xlim(min([0.5, *(0.8 * value for value in times)]), 2.5 * max([2.0, *times]))
    right.set_xlim(0, 1.2 * max([100.0, *(100 * (ratio(found, "limit") or 0) for found in shown)]))
    left.set_yticks(range(len(shown)), [f"{found['what']}  {_figure(found)}" for found in shown], fontsize=9)
    figure.savefig(path, dpi=120)


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
