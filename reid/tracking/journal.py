"""What is on its way to MLflow: written down first, sent by a thread of its own, kept until it has arrived.

`mlflow.jsonl` in a stage's folder is the journal, a JSON object a line, only ever appended to; so a figure is safe once
it is logged, whatever then happens to the server or to this process. `mlflow.json` beside it is the address: whose
figures these are, and how much of the journal each MLflow run has. A record that is sent twice changes nothing there.
Imports no MLflow.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from reid.errors import ReidError
from reid.files.writing import replacing

logger = logging.getLogger(__name__)

JOURNAL, ADDRESS = "mlflow.jsonl", "mlflow.json"
BATCH = 500
"""Records sent before it is noted that they have arrived."""
GATHER_S = 0.5
"""Figures that come within it share a call."""
BACK_OFF_S = (1.0, 60.0)
"""The first pause after a failure, doubled each time, and the longest."""
GIVE_UP_S, HANG_S = 8.0, 60.0
"""How long the end of a stage waits for a server that refuses, and for one that is only slow."""
JOIN_S = 5.0

Record = dict[str, Any]


@dataclass
class Address:
    """Where a journal goes. Ids that are not known yet are empty; they are found or made when the store answers."""

    store: str
    stage: str = ""
    run_id: str = ""
    parent_id: str = ""
    kfp_run_id: str = ""
    experiment: str = "reid"
    settled: bool = False
    """Whether the run is known to be there, open, and under its parent."""
    sent: dict[str, int] = field(default_factory=dict)
    """MLflow run -> bytes of the journal that it has."""

    @classmethod
    def load(cls, folder: Path) -> "Address | None":
        """The address in this folder; None where there is none that can be read."""
        try:
            return cls(**json.loads((folder / ADDRESS).read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None

    def save(self, folder: Path) -> None:
        """Writes the address, in one step."""
        with replacing(folder / ADDRESS) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


class Journal:
    """The records of one stage, or of one pipeline run."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / JOURNAL
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = threading.Lock()
        self._points: set[tuple[str, int]] = set()
        self._stream = self.path.open("ab", buffering=0)
        records, whole = self.after(0, limit=None)
        if whole < self.size():  # a line that a kill cut off
            self._stream.write(b"\n")
        for record in records:
            self._points |= {(name, record["step"]) for name in record.get("metrics", ())}

    def append(self, record: Record) -> None:
        """Writes a record down."""
        with self._lock:
            self._stream.write(json.dumps(record).encode() + b"\n")

    def append_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Writes figures down, but for those that are there at this step: a step done again after a resume."""
        fresh = {name: float(value) for name, value in metrics.items() if (name, step) not in self._points}
        if fresh:
            self._points |= {(name, step) for name in fresh}
            self.append({"metrics": fresh, "step": step, "time": now_ms()})

    def know(self, points: Iterable[tuple[str, int]]) -> None:
        """These figures are there at these steps already."""
        self._points |= set(points)

    def has_curve(self, name: str) -> bool:
        """Whether this figure was logged at any step but 0."""
        return any(known == name and step for known, step in self._points)

    def after(self, offset: int, *, limit: int | None = BATCH) -> tuple[list[Record], int]:
        """The whole records from this byte on, at most `limit`, and the byte after the last of them."""
        records: list[Record] = []
        with self.path.open("rb") as stream:
            stream.seek(offset)
            while (limit is None or len(records) < limit) and (line := stream.readline()).endswith(b"\n"):
                offset += len(line)
                try:
                    records.append(json.loads(line))
                except ValueError:
                    continue  # what a kill cut off
        return records, offset

    def size(self) -> int:
        """Bytes written."""
        return self.path.stat().st_size

    def close(self) -> None:
        """Nothing more will be written."""
        self._stream.close()


def now_ms() -> int:
    """The time as MLflow counts it."""
    return math.floor(time.time() * 1000)


class Sender:
    """A thread that sends what there is, and tries again, less and less often, while nothing can be sent."""

    def __init__(self, send: Callable[[], int], *, waiting: Callable[[], bool], kept_in: Path) -> None:
        """send: sends some of what is `waiting`, returns how many records; ReidError where that cannot be done now."""
        self._send, self._waiting, self._kept_in = send, waiting, kept_in
        self._wake, self._closing, self._given_up = threading.Event(), threading.Event(), threading.Event()
        self._progress_at = time.monotonic()
        self._warned = self._failing = False
        self._thread = threading.Thread(target=self._run, name="mlflow", daemon=True)
        self._thread.start()

    def wake(self) -> None:
        """There is something to send."""
        self._wake.set()

    def flush(self) -> bool:
        """Waits until all is sent, or for GIVE_UP_S (HANG_S) without any progress; whether it was."""
        self._wake.set()
        started = time.monotonic()
        while self._waiting():
            idle_s = time.monotonic() - max(started, self._progress_at)
            if idle_s > (GIVE_UP_S if self._failing else HANG_S):
                return False
            time.sleep(0.02)
        return True

    def close(self) -> bool:
        """Flushes, says once what is left, and stops."""
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
            try:
                sent = self._send()
            except ReidError as error:
                self._failing = True
                self._warn(error)
                self._closing.wait(pause)
                pause = min(2 * pause, BACK_OFF_S[1])
                if self._closing.is_set():
                    self._given_up.wait(BACK_OFF_S[0])
                self._wake.set()
                continue
            self._progress_at, self._failing = time.monotonic(), False
            pause = BACK_OFF_S[0]
            if self._warned and sent:
                logger.info("MLflow answers again; what was kept is being sent")
                self._warned = False
            if self._waiting():
                self._wake.set()
            else:
                self._closing.wait(GATHER_S)

    def _warn(self, error: ReidError) -> None:
        if not self._warned:
            self._warned = True
            logger.warning("%s; figures are kept in %s and sent when it answers again", error, self._kept_in)
