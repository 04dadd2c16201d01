"""The bench's picture: each figure against its textbook side and its limit."""

from pathlib import Path

from tests.bench.rows import Row

INK, OURS, TEXTBOOK, LIMIT = "#222222", "#2a78b5", "#c9c9c9", "#d1495b"


def draw(rows: list[Row], path: Path, *, title: str) -> None:
    """Bars of speed over the textbook's, on a logarithmic axis, marks at the limits; rows of neither are left out."""
    from matplotlib.figure import Figure

    shown = [found for found in rows if found.get("textbook") or (found.get("limit") and found["unit"] != "GFLOP/s")]
    if not shown:
        return
    figure = Figure(figsize=(11, 0.42 * len(shown) + 1.4), layout="constrained")
    axes = figure.add_subplot()
    for place, found in enumerate(reversed(shown)):
        base = found.get("textbook") or found["limit"]
        ours = _speed(found, found["value"]) / _speed(found, base)
        axes.barh(place, ours, color=OURS, height=0.62)
        if found.get("textbook"):
            axes.barh(place, 1, color=TEXTBOOK, height=0.28)
        if found.get("limit"):
            at = _speed(found, found["limit"]) / _speed(found, base)
            axes.plot([at, at], [place - 0.4, place + 0.4], color=LIMIT, linewidth=2.5)
        value = f"{found['value']:,.0f}" if found["value"] >= 100 else f"{found['value']:.3g}"
        axes.annotate(
            f"{value} {found['unit']}", (ours, place), xytext=(6, 0), textcoords="offset points", va="center", color=INK
        )
    axes.set_yticks(range(len(shown)), [f"{found['part']}: {found['what']}" for found in reversed(shown)])
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel(
        "times as fast as the textbook (grey), or the share of the limit where there is none; red: the limit"
    )
    axes.set_title(title, loc="left", color=INK, fontsize=10)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path, dpi=130)


def _speed(found: Row, value: float) -> float:
    """More is faster, whatever the unit."""
    return 1 / value if found["unit"] in ("s", "ms") else value
