"""A network on a Triton server, called like any other: preprocessed images in, embeddings out.

The server says how to preprocess: the contract is a parameter of the model's configuration (see triton.py). If the
server does not answer, requests are repeated for a while; when it is back, it must serve the same contract.

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
from reid.deploy.triton_connection import Server, config_of, connect, infer, is_away, is_unknown_model, refusal
from reid.deploy.triton_contract import GivenContract, served_contract
from reid.embeddings import Network, OfPixels
from reid.errors import ReidError, ServerError

logger = logging.getLogger(__name__)

T = TypeVar("T")
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
"""The first and the longest pause between attempts; it doubles each time."""


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
        """Asks the server for the contract. Requests will have `batch_size` images, `in_flight` of them at a time.

        `given` is the contract of a model whose configuration has none. Raises ServerError if there is no answer for
        `patience_s` seconds, if the server has no such model, if the model has no contract or contradicts it, and if it
        takes smaller batches only; MissingDependency without tritonclient.
        """
        self.batch_size, self.in_flight, self._given = batch_size, in_flight, given
        self._server, self._patience_s = server, patience_s
        self._local, self._closed = threading.local(), threading.Event()
        self._contract: Contract | None = None
        self.pixels: PixelPort | None = None
        """The pixels that the model takes; None if it takes prepared images."""
        self._warned_at = -1.0
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="triton")
        try:
            self._retry_while_away(lambda _: None)
        except BaseException:
            self.close()
            raise

    @property
    def contract(self) -> Contract:
        """The contract of the model."""
        assert self._contract is not None
        return self._contract

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
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """images (N, C, H, W), preprocessed, or as `pixels` says -> embeddings (N, D), in the order of the images."""
        self._retry_while_away(self._check_contract)  # the server may have been restarted since
        starts = range(0, len(images), self.batch_size)
        parts = list(self._pool.map(lambda start: self._infer(images[start : start + self.batch_size]), starts))
        return np.concatenate(parts) if parts else np.empty((0, self.contract.embedding), np.float32)

    def _infer(self, images: NDArray[Any]) -> NDArray[np.float32]:
        """One request: images (B, C, H, W) -> (B, D)."""
        server, started = self._server, time.monotonic()
        found = self._retry_while_away(lambda client: infer(client, server, images))
        logger.debug("%s: %d images in %.0f ms", server.url, len(images), 1000 * (time.monotonic() - started))
        if found is None or found.shape != (len(images), self.contract.embedding):
            raise ServerError(
                f"{server.url}: {server.model_name} answers with "
                f"{'nothing' if found is None else f'an output of shape {found.shape}'}\n"
                f"  want: {(len(images), self.contract.embedding)} (images, embedding), as its contract says"
            )
        return np.asarray(found, np.float32)

    def _retry_while_away(self, ask: Callable[[Any], T]) -> T:
        """The server's answer; while the server is away, the request is repeated for patience_s, in growing pauses."""
        wait_s, give_up_at = FIRST_WAIT_S, time.monotonic() + self._patience_s
        while True:
            try:
                return ask(self._client())
            except ReidError:
                raise
            except Exception as error:  # sockets, gevent, gRPC and tritonclient each have errors of their own
                self._drop_client()
                stopping = self._contract is not None and is_unknown_model(error)  # a server unloads while it stops
                if not (is_away(error) or stopping):
                    raise refusal(self._server, error) from error
                now = time.monotonic()
                if now + wait_s > give_up_at or self._closed.is_set():
                    raise ServerError(
                        f"{self._server.url}: no answer for {self._patience_s:g} s, by {self._server.protocol}\n"
                        f"  found: {error}\n"
                        "  want:  a Triton server; its port is by default 8000 for HTTP and 8001 for gRPC"
                    ) from error
                if now > self._warned_at + 1:  # one warning for all requests under way
                    self._warned_at = now
                    logger.warning("%s: %s; trying again in %.2g s", self._server.url, error, wait_s)
                self._closed.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _client(self) -> Any:
        """This thread's connection; a new one is made only if the server still serves the same contract."""
        client = getattr(self._local, "client", None)
        if client is not None:
            return client
        client = connect(self._server)
        try:
            self._check_contract(client)
        except BaseException:
            client.close()
            raise
        self._local.client = client
        return client

    def _check_contract(self, client: Any) -> None:
        """Takes the model's contract the first time; afterwards raises ServerError if it has changed."""
        server = self._server
        contract, pixels = served_contract(
            config_of(client, server),
            given=self._given,
            where=f"{server.url}: {server.model_name}",
            batch_size=self.batch_size,
        )
        if self._contract not in (None, contract):
            raise ServerError(
                f"{self._server.url}: {self._server.model_name} has changed between two requests: another contract\n"
                f"  found: {contract.to_json()}\n  want:  {self.contract.to_json()}"
            )
        self._contract, self.pixels = contract, pixels

    def _drop_client(self) -> None:
        client = getattr(self._local, "client", None)
        self._local.client = None
        if client is not None:
            client.close()
