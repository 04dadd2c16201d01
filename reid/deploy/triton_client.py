"""A network behind a Triton server, called like any other: preprocessed images in, embeddings out.

The only file that imports tritonclient. How to preprocess is asked of the server: the contract is a parameter of the
model's configuration (see triton.py). A server that is away is waited for; when it is back it has to serve the same
contract.

Shapes: N images, B images of a request, C channels, H height, W width, D embedding width.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT
from reid.errors import MissingDependency, ServerError

logger = logging.getLogger(__name__)

T = TypeVar("T")
PROTOCOLS = {"http": "http", "https": "http", "grpc": "grpc"}
"""What may be asked for -> what is spoken. As in TAO's client "https" means HTTP; TLS is the URL's scheme's to ask."""
REQUEST_TIMEOUT_S = 60.0
FIRST_WAIT_S, LONGEST_WAIT_S = 0.25, 5.0
"""Between attempts; doubled each time."""
AWAY = {"502", "503", "504", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
"""Statuses of a server, or of a proxy before it, that may be gone in a moment."""
UNKNOWN_MODEL = {"404", "StatusCode.NOT_FOUND"}


@dataclass(frozen=True)
class Server:
    """Where a model is served."""

    url: str
    """host:port, or with a scheme: https:// (or grpcs://) is TLS."""
    protocol: str
    """Of PROTOCOLS, in any case."""
    model_name: str
    model_version: str
    """"" for the server's choice, the latest."""

    @property
    def tls(self) -> bool:
        """Whether the URL asks for it."""
        return urlsplit(self.url).scheme in ("https", "grpcs")

    @property
    def address(self) -> str:
        """The URL without its scheme."""
        return self.url.partition("://")[2] or self.url

    @property
    def is_grpc(self) -> bool:
        """Whether gRPC is spoken, not HTTP."""
        return PROTOCOLS[self.protocol.lower()] == "grpc"


class TritonModel:
    """A network of a Triton server; use it in a `with` block."""

    def __init__(self, server: Server, *, batch_size: int, in_flight: int, patience_s: float) -> None:
        """Ask the server for the contract; requests will be of `batch_size` images, `in_flight` of them at a time.

        An answer is waited for `patience_s` seconds, then ServerError; as where the server has no such model, one
        without contract, one whose input or output contradicts it, or one that takes smaller batches only.
        MissingDependency without tritonclient.
        """
        self.batch_size, self.in_flight = batch_size, in_flight
        self._server, self._patience_s = server, patience_s
        self._local, self._closed = threading.local(), threading.Event()
        self._contract: Contract | None = None
        self._pool = ThreadPoolExecutor(in_flight, thread_name_prefix="triton")
        try:
            self._patiently(lambda _: None)
        except BaseException:
            self.close()
            raise

    @property
    def contract(self) -> Contract:
        """What the server says of the model."""
        assert self._contract is not None
        return self._contract

    def __enter__(self) -> "TritonModel":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give up what is under way."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def __call__(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """images (N, C, H, W), preprocessed -> embeddings (N, D), in the order of the images."""
        starts = range(0, len(images), self.batch_size)
        parts = list(self._pool.map(lambda start: self._infer(images[start : start + self.batch_size]), starts))
        return np.concatenate(parts) if parts else np.empty((0, self.contract.embedding), np.float32)

    def _infer(self, images: NDArray[np.float32]) -> NDArray[np.float32]:
        """One request: images (B, C, H, W) -> (B, D)."""
        library, server = _library(self._server), self._server
        port = library.InferInput(INPUT, list(images.shape), "FP32")
        port.set_data_from_numpy(np.ascontiguousarray(images, np.float32))
        wanted = [library.InferRequestedOutput(OUTPUT)]

        def ask(client: Any) -> Any:
            timeout = {"client_timeout": REQUEST_TIMEOUT_S} if server.is_grpc else {}
            return client.infer(
                server.model_name, [port], model_version=server.model_version, outputs=wanted, **timeout
            ).as_numpy(OUTPUT)

        found = self._patiently(ask)
        if found is None or found.shape != (len(images), self.contract.embedding):
            raise ServerError(
                f"{server.url}: {server.model_name} answers with "
                f"{'nothing' if found is None else f'an output of shape {found.shape}'}\n"
                f"  want: {(len(images), self.contract.embedding)} (images, embedding), as its contract says"
            )
        return np.asarray(found, np.float32)

    def _patiently(self, ask: Callable[[Any], T]) -> T:
        """What the server answers; with pauses that grow, as long as it is away and patience lasts."""
        wait_s, give_up_at = FIRST_WAIT_S, time.monotonic() + self._patience_s
        while True:
            try:
                return ask(self._client())
            except Exception as error:  # sockets, gevent, gRPC and tritonclient each have their own
                self._drop_client()
                if not _is_away(error):
                    raise self._refusal(error) from error
                if time.monotonic() + wait_s > give_up_at or self._closed.is_set():
                    raise ServerError(
                        f"{self._server.url}: no answer for {self._patience_s:g} s, by {self._server.protocol}\n"
                        f"  found: {error}\n"
                        "  want:  a Triton server; its port is 8000 for HTTP and 8001 for gRPC unless told otherwise"
                    ) from error
                logger.warning("%s: %s; trying again in %.2g s", self._server.url, error, wait_s)
                self._closed.wait(wait_s)
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)

    def _client(self) -> Any:
        """This thread's connection; a new one is opened only where the server still serves the same contract."""
        client = getattr(self._local, "client", None)
        if client is None:
            client = self._local.client = _connect(self._server)
            contract = _contract_of(client, self._server, batch_size=self.batch_size)
            if self._contract not in (None, contract):
                raise ServerError(
                    f"{self._server.url}: {self._server.model_name} has changed while it was asked: another contract\n"
                    f"  found: {contract.to_json()}\n  want:  {self.contract.to_json()}"
                )
            self._contract = contract
        return client

    def _drop_client(self) -> None:
        client = getattr(self._local, "client", None)
        self._local.client = None
        if client is not None:
            client.close()

    def _refusal(self, error: Exception) -> Exception:
        """The error in our words, where it is tritonclient's; else itself."""
        status = getattr(error, "status", None)
        if status is None:
            return error
        server = self._server
        if status() not in UNKNOWN_MODEL:
            return ServerError(f"{server.url}: the server refuses the request\n  found: {error}")
        name = f"{server.model_name}, version {server.model_version or 'the latest'}"
        return ServerError(f"{server.url}: no model {name}\n  found: {_models(server)}")


def _library(server: Server) -> Any:
    """tritonclient.grpc or tritonclient.http."""
    try:
        if server.is_grpc:
            import tritonclient.grpc as library
        else:
            import tritonclient.http as library
    except (ImportError, RuntimeError) as error:  # tritonclient turns the one into the other
        raise MissingDependency(
            f"Triton client: {error}; tritonclient comes with pip install 'reid-pipeline[triton]'"
        ) from error
    return library


def _connect(server: Server) -> Any:
    """A client for one thread: those of HTTP are not to be shared."""
    library = _library(server)
    if server.is_grpc:
        arguments = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", int(1000 * LONGEST_WAIT_S)),
        ]
        return library.InferenceServerClient(server.address, ssl=server.tls, channel_args=arguments)
    from gevent.ssl import create_default_context

    return library.InferenceServerClient(
        server.address,
        ssl=server.tls,
        ssl_context_factory=create_default_context,
        connection_timeout=REQUEST_TIMEOUT_S,
        network_timeout=REQUEST_TIMEOUT_S,
    )


def _is_away(error: Exception) -> bool:
    """Whether it may be otherwise in a moment: no connection, one cut off, a server that is starting or stopping."""
    status = getattr(error, "status", None)
    if status is not None:
        return status() in AWAY
    return isinstance(error, OSError) or type(error).__module__.startswith("geventhttpclient")


def _contract_of(client: Any, server: Server, *, batch_size: int) -> Contract:
    """The contract in the model's configuration; ServerError where there is none or it cannot be kept."""
    config = client.get_model_config(
        server.model_name, server.model_version, **({"as_json": True} if server.is_grpc else {})
    )
    config = config["config"] if server.is_grpc else config
    where = f"{server.url}: {server.model_name}"
    parameter = config.get("parameters", {}).get(CONTRACT_KEY)
    if parameter is None:
        raise ServerError(
            f"{where} has no preprocessing contract, so that nobody knows how to prepare an image for it\n"
            f"  want: the parameter {CONTRACT_KEY!r} in its configuration, which reid triton writes"
        )
    contract = Contract.from_json(parameter["string_value"])
    found, wanted = _ports(config), _ports_wanted(contract)
    if found != wanted:
        raise ServerError(f"{where}: inputs and outputs are {found}\n  want: {wanted}, as its contract says")
    most = int(config.get("max_batch_size", 0))
    if batch_size > most:
        raise ServerError(f"{where} takes batches of at most {most} images\n  found: {batch_size} asked for (-b)")
    return contract


def _ports(config: dict[str, Any]) -> str:
    ports = [*config["input"], *config["output"]]
    return ", ".join(f"{port['name']} {port['data_type']} ({', '.join(map(str, port['dims']))})" for port in ports)


def _ports_wanted(contract: Contract) -> str:
    size = f"{contract.channels}, {contract.height}, {contract.width}"
    return f"{INPUT} TYPE_FP32 ({size}), {OUTPUT} TYPE_FP32 ({contract.embedding})"


def _models(server: Server) -> str:
    """What the server has instead."""
    client = _connect(server)
    try:
        index = client.get_model_repository_index(**({"as_json": True} if server.is_grpc else {}))
    finally:
        client.close()
    models = index.get("models", []) if isinstance(index, dict) else index
    names = [f"{model['name']} version {model['version']}" if "version" in model else model["name"] for model in models]
    return ", ".join(sorted(names)) or "no model at all"
