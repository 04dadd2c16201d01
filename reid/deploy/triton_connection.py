"""A connection to a Triton server by HTTP or gRPC: its requests, and what its errors mean.

This is the only file that imports tritonclient.
Shapes: B images of a request, C channels, H height, W width, D embedding width.
"""

import ipaddress
import queue
import re
import ssl
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.deploy.onnx import INPUT, OUTPUT
from reid.errors import MissingDependency, ServerError, SpecError

URL = re.compile(
    r"((?P<scheme>https?|grpcs?)://)?(?P<address>(?P<host>\[[0-9A-Fa-f:]+\]|[^\s/:\[\]]+)(:\d{1,5})?(/\S*)?)"
)

PROTOCOLS = {"http": "http", "https": "http", "grpc": "grpc"}
"""The protocol asked for -> the one used. As in TAO's client "https" means HTTP; the URL's scheme chooses TLS."""
REQUEST_TIMEOUT_S = 60.0
RECONNECT_MS = 5000
"""gRPC's own longest pause between attempts to connect."""
AWAY = {"502", "503", "504", "StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"}
"""Statuses of a server, or of a proxy in front of it, that may pass in a moment."""
UNKNOWN_MODEL = {"404", "StatusCode.NOT_FOUND"}
STOPPING = "has stopped accepting new inference requests"
STREAM_ENDED = "The stream is no longer in valid state"
"""tritonclient's words if the connection of a stream was lost between two requests."""


@dataclass(frozen=True)
class Server:
    """The address of a served model."""

    url: str
    """host:port, or with a scheme; https:// or grpcs:// ask for TLS."""
    protocol: str
    """A key of PROTOCOLS, in upper or lower case."""
    model_name: str
    model_version: str
    """"" for the version that the server chooses, the latest."""
    streaming: bool = False
    """Whether requests go over a stream (ModelStreamInfer), which only gRPC has."""

    def __post_init__(self) -> None:
        """Raises SpecError if HTTP is to stream."""
        if self.streaming and not self.is_grpc:
            raise SpecError(
                f"--streaming: only gRPC can stream\n  found: {self.protocol} (-i)\n"
                "  want:  -i grpc, with Triton's gRPC port (by default 8001); or without --streaming"
            )

    @property
    def tls(self) -> bool:
        """Whether the URL asks for TLS."""
        return self._url["scheme"] in ("https", "grpcs")

    @property
    def address(self) -> str:
        """The URL without its scheme."""
        return self._url["address"]

    @property
    def _url(self) -> re.Match[str]:
        found = URL.fullmatch(self.url)
        if found is None:
            raise SpecError(f"{self.url}: not the address of a server; want host:port, or https://host:port for TLS")
        return found

    @property
    def is_grpc(self) -> bool:
        """Whether the protocol is gRPC, not HTTP."""
        return PROTOCOLS[self.protocol.lower()] == "grpc"

    @property
    def is_on_this_machine(self) -> bool:
        """Whether the address is a loopback address: localhost, 127.0.0.0/8 or ::1."""
        host = self._url["host"].strip("[]")
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return host.lower().rstrip(".") == "localhost"


def infer(client: Any, server: Server, images: NDArray[Any]) -> NDArray[np.float32] | None:
    """Sends one request: images (B, C, H, W) -> the server's fc_pred, (B, D) if it keeps its contract.

    A server that prepares images itself gets pixels instead, uint8 or float32.
    """
    library = _library(server)
    kind = "UINT8" if images.dtype == np.uint8 else "FP32"
    port = library.InferInput(INPUT, list(images.shape), kind)
    port.set_data_from_numpy(np.ascontiguousarray(images, np.uint8 if kind == "UINT8" else np.float32))
    request = {
        "inputs": [port],
        "model_version": server.model_version,
        "outputs": [library.InferRequestedOutput(OUTPUT)],
    }
    if server.streaming:
        answer = _infer_by_stream(client, server, request)
    else:
        timeout = {"client_timeout": REQUEST_TIMEOUT_S} if server.is_grpc else {}
        answer = client.infer(server.model_name, **request, **timeout)
    found: NDArray[np.float32] | None = answer.as_numpy(OUTPUT)
    return found


def _infer_by_stream(client: Any, server: Server, request: dict[str, Any]) -> Any:
    """Sends one request over the client's stream, which is opened by the first one, and waits for its answer.

    A client has one request under way at a time, so an error, which names no request, belongs to this one.
    """
    if not hasattr(client, "answers"):
        answers: queue.SimpleQueue[tuple[Any, Exception | None]] = queue.SimpleQueue()
        client.start_stream(lambda result, error: answers.put((result, error)))
        client.answers = answers
    client.async_stream_infer(server.model_name, **request)
    try:
        result, error = client.answers.get(timeout=REQUEST_TIMEOUT_S)
    except queue.Empty:
        client.stop_stream(cancel_requests=True)
        raise TimeoutError(f"no answer over the stream for {REQUEST_TIMEOUT_S:g} s") from None
    if error is not None:
        raise error
    return result


def refusal(server: Server, error: Exception) -> Exception:
    """The server's refusal as a ServerError; another error is returned as it is."""
    from geventhttpclient.response import HTTPParseError

    if isinstance(error, HTTPParseError):
        return ServerError(
            f"{server.url}: the answer is not HTTP\n  found: {error}\n"
            "  want:  Triton's HTTP port, by default 8000; or gRPC (-i grpc) with its port, 8001"
        )
    if isinstance(error, ssl.SSLError):
        return ServerError(
            f"{server.url}: no TLS connection\n  found: {error}\n"
            "  want:  a server that speaks TLS (Triton itself does not by HTTP), with a certificate that this machine "
            "trusts;\n         SSL_CERT_FILE may name the authority's"
        )
    status = getattr(error, "status", None)
    if status is None:
        return error
    if not is_unknown_model(error):
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
    except (ImportError, RuntimeError) as error:  # tritonclient turns an ImportError into a RuntimeError
        raise MissingDependency(
            f"Triton client: {error}; tritonclient comes with pip install -e '.[triton]' in the repository's root"
        ) from error
    return library


def connect(server: Server) -> Any:
    """A client for one thread: threads must not share a client of HTTP."""
    library = _library(server)
    if server.is_grpc:
        arguments = [
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", -1),
            ("grpc.max_reconnect_backoff_ms", RECONNECT_MS),
            ("grpc.enable_http_proxy", int(not server.is_on_this_machine)),
        ]
        return library.InferenceServerClient(server.address, ssl=server.tls, channel_args=arguments)
    from gevent.ssl import create_default_context

    return library.InferenceServerClient(
        server.address,
        ssl=server.tls,
        ssl_context_factory=lambda **_: create_default_context(),  # trust the system's authorities, not a package's
        connection_timeout=REQUEST_TIMEOUT_S,
        network_timeout=REQUEST_TIMEOUT_S,
    )


def is_away(error: Exception) -> bool:
    """Whether the error may pass in a moment: no connection, one cut off, a server that starts or stops."""
    from geventhttpclient.response import HTTPConnectionClosed, HTTPProtocolViolationError

    status = getattr(error, "status", None)
    if status is not None:
        return status() in AWAY or _says(error, STOPPING) or _says(error, STREAM_ENDED)
    if isinstance(error, ssl.SSLError):
        return isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError))
    return isinstance(error, (OSError, HTTPConnectionClosed, HTTPProtocolViolationError))


def is_unknown_model(error: Exception) -> bool:
    """Whether the server says that it has no such model."""
    status = getattr(error, "status", None)
    return status is not None and (status() in UNKNOWN_MODEL or _says(error, "Request for unknown model"))


def _says(error: Any, words: str) -> bool:
    """Whether an error without a status, as those of a stream are, has these words of the server."""
    return error.status() is None and words in str(error.message())


def config_of(client: Any, server: Server) -> dict[str, Any]:
    """The model's configuration on the server, as Triton gives it in JSON."""
    as_json = {"as_json": True} if server.is_grpc else {}
    config: dict[str, Any] = client.get_model_config(server.model_name, server.model_version, **as_json)
    return config["config"] if server.is_grpc else config


def _models(server: Server) -> str:
    """The models that the server has."""
    from tritonclient.utils import InferenceServerException

    client = connect(server)
    try:
        index = client.get_model_repository_index(**({"as_json": True} if server.is_grpc else {}))
    except InferenceServerException as error:
        return f"a server that does not list its models ({error})"
    finally:
        client.close()
    models = index.get("models", []) if isinstance(index, dict) else index
    names = [f"{model['name']} version {model['version']}" if "version" in model else model["name"] for model in models]
    return ", ".join(sorted(names)) or "no model at all"
