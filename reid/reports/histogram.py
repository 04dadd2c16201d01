"""The bars of a small histogram: how many persons have how many images or cameras. templates/parts.html.j2 draws it."""

from dataclasses import dataclass

from reid.data.findings import counted

BARS = 20
"""At most."""
WIDTH, BASELINE, TALLEST = 340, 105, 90
"""The width of the drawing, the foot of the bars and the height of the tallest, in its own units, y downward."""
FILLED = 0.82
"""Share of its step that a bar fills."""


@dataclass(frozen=True)
class Bar:
    """One bar in units of the drawing, and what it stands for."""

    x: float
    y: float
    width: float
    height: float
    title: str


@dataclass(frozen=True)
class Histogram:
    """The bars, and the texts at both ends of the axis and at the top."""

    bars: tuple[Bar, ...]
    first: str
    last: str
    """"" if there is one bar only."""
    top: str


def persons_histogram(per_person: tuple[int, ...], noun: str) -> Histogram | None:
    """The histogram of these numbers of images (`noun`), or cameras, one a person, ascending; None without a person."""
    if not per_person:
        return None
    low, high = per_person[0], per_person[-1]
    step = -(-(high - low + 1) // BARS)  # whole numbers per bar
    persons_of = [0] * ((high - low) // step + 1)
    for number in per_person:
        persons_of[(number - low) // step] += 1
    pitch, most = WIDTH / len(persons_of), max(persons_of)
    bars = []
    for number, persons in enumerate(persons_of):
        first, last = low + number * step, min(low + (number + 1) * step - 1, high)
        spread = counted(first, noun) if first == last else f"{first:,} to {last:,} {noun}s"
        height = TALLEST * persons / most
        bars.append(
            Bar(
                x=(number + (1 - FILLED) / 2) * pitch,
                y=BASELINE - height,
                width=pitch * FILLED,
                height=height,
                title=f"{spread}: {counted(persons, 'person')}",
            )
        )
    last_text = f"{high:,}" if len(bars) > 1 else ""
    return Histogram(tuple(bars), counted(low, noun), last_text, f"up to {counted(most, 'person')}")
