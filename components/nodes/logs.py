"""Node 0's log, copied line by line into the log of the train stage as it is written."""

import logging
import re
import threading
from collections import deque
from datetime import datetime
from typing import TextIO

from components.nodes.cluster import NoRight, Trainer

logger = logging.getLogger(__name__)

AGAIN_S = 1.0
"""Seconds until the log is asked for again after it ended or could not be read."""
KEPT = 20
"""Last lines that an error quotes."""
FRACTION = re.compile(r"(\.\d{1,6})\d*")


class CopiedLog(threading.Thread):
    """Follows the log of whichever pod is node 0 now; a pod that takes its place, or starts again, is followed too."""

    def __init__(self, trainer: Trainer, stream: TextIO) -> None:
        super().__init__(name="log of node 0", daemon=True)
        self._trainer, self._stream = trainer, stream
        self._pod = ""
        self._last: datetime | None = None
        self._warned = False
        self._ended = threading.Event()
        self._kept: deque[str] = deque(maxlen=KEPT)

    @property
    def last_lines(self) -> list[str]:
        """The end of what was copied."""
        return list(self._kept)

    def follow(self, pod: str) -> None:
        """From now on this pod is node 0."""
        self._pod = pod

    def finish(self, timeout_s: float = 15.0) -> None:
        """Copies what is left, and ends."""
        self._ended.set()
        self.join(timeout_s)

    def run(self) -> None:
        """Copies until it is asked to finish, and then what is left."""
        pod = ""
        while True:
            last_time = self._ended.is_set()
            if self._pod != pod:
                pod, self._last = self._pod, None
            if pod:
                self._copy(pod, follow=not last_time)
            if last_time:
                return
            self._ended.wait(AGAIN_S)

    def _copy(self, pod: str, *, follow: bool) -> None:
        """Copies the lines that were not copied yet; a log that cannot be read now is asked for again."""
        since = self._last
        try:
            for line in self._trainer.log(pod, since=since, follow=follow):
                written, _, text = line.partition(" ")
                when = _time(written)
                if when and since and when <= since:
                    continue
                self._last = when or self._last
                self._write(text if when else line)
        except NoRight as error:
            if not self._warned:
                logger.warning("the nodes' log cannot be shown here: %s", error)
            self._warned = True
        except Exception as error:  # a container that has not started has no log; a connection may break
            logger.debug("log of %s: %s", pod, error)

    def _write(self, text: str) -> None:
        self._kept.append(text)
        self._stream.write(f"{text}\n")
        self._stream.flush()


def _time(text: str) -> datetime | None:
    """The time that the kubelet writes before a line, in nanoseconds; None if it is none."""
    try:
        return datetime.fromisoformat(FRACTION.sub(r"\1", text))
    except ValueError:
        return None
