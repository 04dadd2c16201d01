"""A journal with its address and its connection to MLflow: what the sender sends."""

import threading
from pathlib import Path
from typing import TYPE_CHECKING

from reid.tracking.journal import Address, Journal
from reid.tracking.replay import replay
from reid.tracking.runs import settle
from reid.tracking.store import connect, reaching

if TYPE_CHECKING:
    from mlflow import MlflowClient


class Outbox:
    """The journal in a folder, to be replayed to its address."""

    def __init__(self, folder: Path, address: Address) -> None:
        self.folder, self.address, self.journal = folder, address, Journal(folder)
        address.save(folder)
        self._client: MlflowClient | None = None
        self._lock = threading.Lock()

    @property
    def waiting(self) -> bool:
        """Whether a part of the journal has not arrived."""
        sent = self.address.sent
        targets = [self.address.run_id, *filter(None, [self.address.parent_id])]
        return self.journal.size() > min(sent.get(target, 0) for target in targets)

    def settle(self) -> None:
        """Finds or creates the MLflow runs now; raises TrackingError if the store does not answer."""
        with self._lock:
            self._settle_and_connect()

    def send(self) -> int:
        """Replays the next records; returns the bytes that arrived. Raises TrackingError if the store does not answer.

        What had arrived before the error is noted.
        """
        with self._lock:
            client = self._settle_and_connect()
            before = sum(self.address.sent.values())
            try:
                with reaching(self.address.store, moves=None):
                    replay(self.journal, self.address, client)
            finally:
                count = sum(self.address.sent.values()) - before
                if count:
                    self.address.save(self.folder)
            return count

    def _settle_and_connect(self) -> "MlflowClient":
        self._client = self._client or connect(self.address.store)
        if not self.address.settled:
            with reaching(self.address.store):
                settle(self._client, self.address)
            self.address.save(self.folder)
        return self._client
