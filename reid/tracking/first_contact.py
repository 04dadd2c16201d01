"""The first contact of a pipeline with its MLflow server, which may start at the same moment as the pipeline."""

import logging
import time

from reid.errors import TrackingError
from reid.tracking.outbox import Outbox
from reid.tracking.store import is_outage

logger = logging.getLogger(__name__)

WAIT_S = 150.0
"""How long the first stage waits for its server."""
PAUSE_S = (1.0, 15.0)
"""The first pause between two tries, doubled after each further one, and the longest pause."""


def settle_when_up(outbox: Outbox) -> None:
    """Finds or creates the outbox's runs as soon as the server is up; it may refuse, fail or have no address till then.

    Raises TrackingError if that takes more than WAIT_S, or at once if the server answers that it will not do it.
    """
    failed_at, pause = 0.0, PAUSE_S[0]
    while True:
        try:
            return outbox.settle()
        except TrackingError as error:
            if not is_outage(error):
                raise
            if not failed_at:
                failed_at = time.monotonic()
                logger.warning("%s; waiting for it, at most %.0f s", error, WAIT_S)
            waited = time.monotonic() - failed_at
            if waited + pause > WAIT_S:
                raise TrackingError(
                    f"{error}\n  waited {waited:.0f} s for it\n  want: a server that answers, or no MLFLOW_TRACKING_URI"
                ) from error
        time.sleep(pause)
        pause = min(2 * pause, PAUSE_S[1])
