"""A network on a Triton server, called like any other: preprocessed images in, embeddings out.

The server says how to preprocess and which model it serves: the contract and the model's digest are parameters of the
model's configuration (see triton.py). If the server does not answer, requests are repeated for a while; when it is
back, it must serve the same model.

Shapes: N images, B images of a request, C channels, H height, W width, D embedding width.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.pixel_port import PixelPort
from reid.deploy.triton_answers import config_of, names_of, shown
from reid.deploy.triton_connection import Connection, Server, ServerAway, UnknownModel, connect
from reid.deploy.triton_contract import GivenContract, ServedModel, served_model
from reid.embeddings import Network, OfPixels
from reid.errors import ServerError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
"""The first and the longest pause between attempts; it doubles each time."""
REQUEST_S = 60.0
"""How long one attempt may take, from the connection to the last byte of the answer."""
SHORTEST_S = 0.5
"""How long the first attempt may take at least, if the patience is shorter."""


class TritonModel:
    """A network of a Triton server; use it in a `with` block."""

    def __init__(
        self,
        server: Server,
        *,
        batch_size: int,
        in_flight: int,
        patience_s: float,
        given: GivenContract | None = None,
    ) -> None:
        """Asks the server for the contract, which takes about `patience_s` seconds at most.

        Requests will have `batch_size` images, `in_flight` of them at a time. `given` is the contract of a model whose
        configuration has none. Raises ServerError if there is no answer for `patience_s` seconds, if an answer is not
        what Triton's are, if the server has no such model, if the model has no contract or contradicts it, and if it
        takes smaller batches only; MissingDependency without the package that gRPC needs.
        """
        self.batch_size, self.in_flight, self._given = batch_size, in_flight, given
        self._server, self._patience_s = server, patience_s
        self._local, self._closed = threading.local(), threading.Event()
        self._connections: set[Connection] = set()
        self._served: ServedModel | None = None
        self._warned_at = -1.0
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="triton")
        try:
            self._retry_while_away(lambda *_: None)
        except BaseException:
            self.close()
            raise

    @property
    def contract(self) -> Contract:
        """The contract of the model."""
        assert self._served is not None
        return self._served.contract

    @property
    def pixels(self) -> PixelPort | None:
        """The pixels that the model takes; None if it takes prepared images."""
        assert self._served is not None
        return self._served.pixels

    @property
    def digest(self) -> str | None:
        """The SHA-256 of the served model's file; None if the server does not say it."""
        assert self._served is not None
        return self._served.digest

    @property
    def network(self) -> Network | OfPixels:
        """The model as `embed` takes it: of prepared images, or of pixels if it prepares them itself."""
        port = self.pixels
        if port is None:
            return self

        def start(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
            vectors = self(port.from_decoded(pixels))
            return lambda: vectors

        return OfPixels(start)

    def __enter__(self) -> "TritonModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Gives up the requests that are under way."""
        self._closed.set()
        for connection in list(self._connections):
            connection.close()
        self._pool.shutdown(cancel_futures=True)

    def check_unchanged(self) -> None:
        """Raises ServerError if the server has another model now than at first contact."""
        self._retry_while_away(self._check_model)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """images (N, C, H, W), preprocessed, or as `pixels` says -> embeddings (N, D), in the order of the images."""
        self.check_unchanged()  # the server may have been restarted since
        starts = range(0, len(images), self.batch_size)
        parts = list(self._pool.map(lambda start: self._infer(images[start : start + self.batch_size]), starts))
        return np.concatenate(parts) if parts else np.empty((0, self.contract.embedding), np.float32)

    def _infer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """One request: images (B, C, H, W) -> (B, D)."""
        server, started, width = self._server, time.monotonic(), self.contract.embedding
        found = self._retry_while_away(lambda it, deadline: it.infer(images, width=width, deadline=deadline))
        logger.debug("%s: %d images in %.0f ms", server.url, len(images), 1000 * (time.monotonic() - started))
        return found

    def _retry_while_away(self, ask: Callable[[Connection, float], T]) -> T:
        """The server's answer; while the server is away, the request is repeated for patience_s, in growing pauses.

        `ask` is given a connection and the deadline of the attempt.
        """
        wait_s, began = FIRST_WAIT_S, time.monotonic()
        give_up_at, deadline = began + self._patience_s, began + min(REQUEST_S, max(self._patience_s, SHORTEST_S))
        while True:
            try:
                return ask(self._connection(deadline), deadline)
            except (ServerAway, UnknownModel) as error:
                self._drop_connection()
                if isinstance(error, UnknownModel) and self._served is None:  # later: a server unloads while it stops
                    raise self._no_such_model(give_up_at) from error
                now = time.monotonic()
                if now + wait_s > give_up_at or self._closed.is_set():
                    raise ServerError(
                        f"{self._server.url}: no answer for {self._patience_s:g} s, by {self._server.protocol}\n"
                        f"  found: {shown(str(error), 500)}\n"
                        "  want:  a Triton server; its port is by default 8000 for HTTP and 8001 for gRPC"
                    ) from error
                if now > self._warned_at + 1:  # one warning for all requests under way
                    self._warned_at = now
                    logger.warning("%s: %s; trying again in %.2g s", self._server.url, shown(str(error), 500), wait_s)
                self._closed.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
                deadline = min(time.monotonic() + REQUEST_S, give_up_at)
            except BaseException:
                self._drop_connection()
                raise

    def _connection(self, deadline: float) -> Connection:
        """This thread's connection; a new one is made only if the server still serves the same model."""
        known: Connection | None = getattr(self._local, "connection", None)
        if known is not None:
            return known
        if self._closed.is_set():
            raise ServerAway("closed")
        connection = self._local.connection = connect(self._server)
        self._connections.add(connection)
        self._check_model(connection, deadline)
        return connection

    def _check_model(self, connection: Connection, deadline: float) -> None:
        """Takes the served model the first time; afterwards raises ServerError if it has changed."""
        where = self._server.where
        found = served_model(
            config_of(connection.config(deadline=deadline), where),
            given=self._given,
            where=where,
            batch_size=self.batch_size,
        )
        if self._served not in (None, found):
            assert self._served is not None
            what, seen, wanted = found.first_difference(self._served)
            raise ServerError(
                f"{where} has changed between two requests: another {what}\n  found: {seen}\n  want:  {wanted}"
            )
        self._served = found

    def _no_such_model(self, give_up_at: float) -> ServerError:
        """The error for a model that the server does not have, with those that it has."""
        server = self._server
        connection = connect(server)
        self._connections.add(connection)
        try:
            deadline = max(give_up_at, time.monotonic() + SHORTEST_S)
            names = names_of(connection.models(deadline=min(deadline, time.monotonic() + REQUEST_S)), server.url)
            found = ", ".join(names[:20]) or "no model at all"
        except (ServerAway, UnknownModel, ServerError) as error:
            found = f"a server that does not list its models ({shown(str(error))})"
        finally:
            self._connections.discard(connection)
            connection.close()
        name = f"{server.model_name}, version {server.model_version or 'the latest'}"
        return ServerError(f"{server.url}: no model {name}\n  found: {found}")

    def _drop_connection(self) -> None:
        connection: Connection | None = getattr(self._local, "connection", None)
        self._local.connection = None
        if connection is not None:
            self._connections.discard(connection)
            connection.close()
