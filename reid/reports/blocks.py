"""Values that fill the parts of a page: large figures and tables. Their markup is in templates/parts.html.j2."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """A large figure; with `before`, also the value that it came from and the gain in points."""

    label: str
    value: float
    """In percent."""
    before: float | None = None
    note: str = ""
    range: str = ""
    """The 95 % interval in percent, as text; "" if it is not known."""
    main: bool = False
    """Whether it is one of the main figures, which are marked."""
    by_chance: bool = False
    """Whether the gain may have come about by chance; then it has no colour."""

    @property
    def points(self) -> float:
        """The gain over `before` in percentage points; 0 if there is no `before`."""
        return 0.0 if self.before is None else self.value - self.before

    @property
    def tone(self) -> str:
        """gain, loss or soft: how the points are coloured; soft too if none are left after rounding."""
        shown = 0 if self.by_chance else round(self.points, 1)
        return "gain" if shown > 0 else "loss" if shown < 0 else "soft"


@dataclass(frozen=True)
class Table:
    """A table of texts, the first column to the left and the others to the right."""

    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    main: int | None = None
    """Number of the main row, from 0; it is shown in bold."""
