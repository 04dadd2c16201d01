"""Progress of long work as lines that a person reads: how far, how fast, how much time is left.

The lines go to the logger "reid.progress", at most one per interval. The command line and the runner decide how to show
them (see reid.console.live).
"""

import logging
import time
from types import TracebackType

logger = logging.getLogger("reid.progress")

INTERVAL_S = 1.0


def duration(seconds: float) -> str:
    """Seconds as a person writes them: 0.4s, 8s, 2m05s, 1h03m."""
    if seconds < 1:
        return f"{max(0.0, seconds):.1f}s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02d}s"
    return f"{whole // 3600}h{whole % 3600 // 60:02d}m"


class Progress:
    """A counter that logs from time to time how far the work is."""

    def __init__(self, what: str, total: int, unit: str = "images", *, already_done: int = 0) -> None:
        self.what, self.total, self.unit = what, total, unit
        self._already_done = already_done
        self._started = self._logged = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None and time.monotonic() - self._started > 5 * INTERVAL_S:
            logger.info("%s: %d %s in %s", self.what, self.total, self.unit, duration(time.monotonic() - self._started))

    def update(self, done: int, **figures: float | str) -> None:
        """Logs that `done` of the total are done, with figures beside it (loss=4.2), if the interval has passed."""
        now = time.monotonic()
        if now - self._logged < INTERVAL_S:
            return
        self._logged = now
        rate = max(done - self._already_done, 1) / (now - self._started)
        shown = "".join(
            f" · {name} {value:.4g}" if isinstance(value, float) else f" · {name} {value}"
            for name, value in figures.items()
        )
        left = duration((self.total - done) / rate)
        logger.info(
            "%s: %d/%d %s%s · %.0f %s/s · %s left",
            self.what,
            done,
            self.total,
            self.unit,
            shown,
            rate,
            self.unit,
            left,
        )
