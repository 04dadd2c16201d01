"""Progress of long work as human lines: how far, how fast, how long still.

Lines go to the logger "reid.progress", at most one per interval. A runner or a command line decides how to show them:
it may rewrite one terminal line, or print them plainly where the output is no terminal.
"""

import logging
import time
from types import TracebackType

logger = logging.getLogger("reid.progress")

INTERVAL_S = 1.0


def duration(seconds: float) -> str:
    """Seconds as a person says them: 8s, 2m05s, 1h03m."""
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """A counter that says from time to time where it stands."""

    def __init__(self, what: str, total: int, unit: str = "images", *, already_done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._already_done = already_done
        self._started = self._spoke = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and time.monotonic() - self._started > 5 * INTERVAL_S:
            logger.info("%s: %d %s in %s", self.what, self.total, self.unit, duration(time.monotonic() - self._started))

    def update(self, done: int, **figures: float | str) -> None:
        """`done` of the total are done; figures are shown beside it (loss=4.2)."""
        now = time.monotonic()
        if now - self._spoke < INTERVAL_S:
            return
        self._spoke = now
        rate = max(done - self._already_done, 1) / (now - self._started)
        shown = "".join(
            f" · {name} {value:.4g}" if isinstance(value, float) else f" · {name} {value}"
            for name, value in figures.items()
        )
        left = duration((self.total - done) / rate)
        logger.info(
            "%s: %d/%d %s%s · %.0f %s/s · %s left", self.what, done, self.total, self.unit, shown, rate, self.unit, left
        )
