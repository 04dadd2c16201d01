"""The thread that sends journals to MLflow while the stage works, and tries again while MLflow does not answer."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

from reid.errors import ReidError

logger = logging.getLogger(__name__)

GATHER_S = 0.5
"""Records that are written within this time share a call."""
BACK_OFF_S = (1.0, 60.0)
"""The first pause after a failure, doubled after each further one, and the longest pause."""
GIVE_UP_S, HANG_S = 8.0, 60.0
"""How long the end of a stage waits for a store that refuses or takes nothing, and for one that is only slow."""
JOIN_S = 5.0


class Sender:
    """A thread that sends what is waiting, and tries again, at growing intervals, while nothing can be sent."""

    def __init__(self, send: Callable[[], int], *, waiting: Callable[[], bool], kept_in: Path) -> None:
        """`send` sends a part of what is `waiting` and returns how much; it raises ReidError if it cannot do so now."""
        self._send, self._waiting, self._kept_in = send, waiting, kept_in
        self._wake, self._closing, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._progress_at = time.monotonic()
        self._warned = self._failing = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """Wakes the thread because there is something to send."""
        self._wake.set()

    def hurry(self) -> None:
        """Sends what is waiting without gathering more or pausing after a failure: the process may soon end."""
        self._closing.set()
        self._wake.set()

    def flush(self) -> bool:
        """Waits until all is sent, at most GIVE_UP_S (HANG_S) without any progress; returns whether all was sent."""
        self._wake.set()
        started = time.monotonic()
        while self._waiting():
            idle_s = time.monotonic() - max(started, self._progress_at)
            if idle_s > (GIVE_UP_S if self._failing else HANG_S) or not self._thread.is_alive():
                return False
            time.sleep(0.02)
        return True

    def close(self) -> bool:
        """Flushes, logs once if something is left, and stops; returns whether all was sent."""
        self._closing.set()
        done = self.flush()
        if not done and not self._warned:
            logger.warning("MLflow takes nothing: what is not sent is kept in %s for the next run", self._kept_in)
        self._given_up.set()
        self._wake.set()
        self._thread.join(JOIN_S if done else 0)  # one that waits for a server that is gone ends with the process
        return done

    def _run(self) -> None:
        pause = BACK_OFF_S[0]
        while True:
            self._wake.wait()
            self._wake.clear()
            if self._given_up.is_set():
                return
            self._failing = not self._send_some()
            if self._failing:
                self._closing.wait(pause)
                pause = min(2 * pause, BACK_OFF_S[1])
                if self._closing.is_set():
                    self._given_up.wait(BACK_OFF_S[0])
                self._wake.set()
                continue
            pause = BACK_OFF_S[0]
            if self._waiting():
                self._wake.set()
            else:
                self._closing.wait(GATHER_S)

    def _send_some(self) -> bool:
        """Sends once; returns False if the store failed, or took nothing of what was waiting."""
        waiting = self._waiting()
        try:
            sent = self._send()
        except ReidError as error:
            if not self._warned:
                self._warned = True
                logger.warning("%s; figures are kept in %s and sent when it answers again", error, self._kept_in)
            return False
        if waiting and not sent:
            return False
        self._progress_at = time.monotonic()
        if self._warned and sent:
            logger.info("MLflow answers again; what was kept is being sent")
            self._warned = False
        return True
