"""Triton's HTTP: KServe's v2 protocol with numbers in binary form, over a socket that obeys a deadline.

Written on the standard library, because no HTTP client has a deadline for a whole answer: their timeouts are for each
piece, and a server that sends a byte a second has no end.
Shapes: B images of a request, C channels, H height, W width, D embedding width.
"""

import http.client
import json
import socket
import ssl
import threading
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from reid.deploy.onnx import INPUT, OUTPUT
from reid.deploy.timed_socket import Link
from reid.deploy.triton_answers import (
    BYTES_A_NUMBER,
    LARGEST_ANSWER,
    LARGEST_HEAD,
    Output,
    embeddings_of,
    parsed,
    shown,
)
from reid.deploy.triton_connection import Server, ServerAway, UnknownModel, refused
from reid.errors import ServerError

HEAD_LENGTH = "Inference-Header-Content-Length"
"""Header that says how many bytes of a body are JSON; the rest are numbers."""
AWAY = {502, 503, 504}
"""Statuses of a server, or of a proxy in front of it, that may pass in a moment."""


class HttpConnection:
    """A connection by HTTP, kept open from request to request."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._link: Link | None = None
        self._closed = threading.Event()
        self._host, self._port = server.host_and_port
        self._tls = ssl.create_default_context() if server.tls else None

    def config(self, *, deadline: float) -> Any:
        """See Connection."""
        body, _ = self._ask("GET", f"{self._server.model_path}/config", deadline=deadline, most=LARGEST_ANSWER)
        return parsed(body, self._server.where)

    def models(self, *, deadline: float) -> Any:
        """See Connection."""
        path = self._server.path("repository/index")
        body, _ = self._ask("POST", path, b"{}", deadline=deadline, most=LARGEST_ANSWER)
        return parsed(body, self._server.url)

    def about(self, *, deadline: float) -> Any:
        """What the server says of itself, as JSON, not checked further."""
        body, _ = self._ask("GET", self._server.path("").rstrip("/"), deadline=deadline, most=LARGEST_HEAD)
        return parsed(body, self._server.url)

    def infer(self, images: NDArray[Any], *, width: int, deadline: float) -> NDArray[np.float32]:
        """See Connection."""
        kind = "UINT8" if images.dtype == np.uint8 else "FP32"
        numbers = np.ascontiguousarray(images, "u1" if kind == "UINT8" else "<f4")
        port = {"name": INPUT, "shape": list(images.shape), "datatype": kind}
        asked = {
            "inputs": [{**port, "parameters": {"binary_data_size": numbers.nbytes}}],
            "outputs": [{"name": OUTPUT, "parameters": {"binary_data": True}}],
        }
        head = json.dumps(asked).encode()
        body, head_length = self._ask(
            "POST",
            f"{self._server.model_path}/infer",
            head,
            numbers.reshape(-1).view(np.uint8).data,
            deadline=deadline,
            most=LARGEST_HEAD + BYTES_A_NUMBER * len(images) * width,
        )
        where = self._server.where
        output = output_in(body, head_length, where)
        return embeddings_of(output, images=len(images), width=width, where=where)

    def close(self) -> None:
        """See Connection."""
        self._closed.set()
        self._drop()

    def _drop(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            link.shut()

    def _ask(
        self,
        method: str,
        path: str,
        head: bytes = b"",
        numbers: bytes | memoryview = b"",
        *,
        deadline: float,
        most: int,
    ) -> tuple[bytes, str | None]:
        """One request and its answer: the body, of at most `most` bytes, and the header HEAD_LENGTH."""
        answer = None
        try:
            link = self._link = self._link or Link(self._closed)
            link.deadline = deadline
            link.connect(self._host, self._port, self._tls)
            link.send(self._lines(method, path, len(head), memoryview(numbers).nbytes) + head)
            if numbers:
                link.send(numbers)
            answer = http.client.HTTPResponse(cast(socket.socket, link), method=method)
            answer.begin()
            body = self._body(answer, most)
            if answer.will_close:
                self._drop()
        except BaseException as error:
            self._drop()
            if answer is not None:
                answer.close()
            if not isinstance(error, Exception):
                raise
            if self._closed.is_set():
                raise ServerAway("the connection was closed") from error
            raise _explained(self._server.url, error) from error
        self._check_status(answer.status, body)
        return body, answer.getheader(HEAD_LENGTH)

    def _lines(self, method: str, path: str, head: int, numbers: int) -> bytes:
        host = f"[{self._host}]" if ":" in self._host else self._host
        lines = [f"{method} {path} HTTP/1.1", f"Host: {host}:{self._port}", f"Content-Length: {head + numbers}"]
        lines += [f"{HEAD_LENGTH}: {head}"] if numbers else []
        return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")

    def _body(self, answer: http.client.HTTPResponse, most: int) -> bytes:
        """The body; raises ServerError if it is too large, ServerAway if it is cut off."""
        body = answer.read(most + 1) if (answer.length or 0) <= most else None
        if body is None or len(body) > most:
            found = f"{answer.length:,} bytes" if body is None else f"more than {most:,} bytes"
            raise ServerError(
                f"{self._server.url}: the answer is too large\n  found: {found}\n  want:  at most {most:,} bytes"
            )
        if answer.length:
            raise ServerAway(f"the answer was cut off {answer.length} bytes before its end")
        return body

    def _check_status(self, status: int, body: bytes) -> None:
        if status == 200:
            return
        said = f"[{status}] {_words(body)}".rstrip()
        if status in AWAY:
            raise ServerAway(said)
        if status == 404:
            raise UnknownModel(said)
        raise refused(self._server, said)


def _explained(url: str, error: Exception) -> Exception:
    """The error as one that `Connection` names; one that cannot come from a server is returned as it is."""
    if isinstance(error, (ssl.SSLEOFError, ssl.SSLZeroReturnError, http.client.RemoteDisconnected)):
        return ServerAway(str(error))
    if isinstance(error, http.client.IncompleteRead):
        return ServerAway("the answer was cut off")
    if isinstance(error, ssl.SSLError):
        return ServerError(
            f"{url}: no TLS connection\n  found: {error}\n"
            "  want:  a server that speaks TLS (Triton itself does not by HTTP), with a certificate that this machine "
            "trusts;\n         SSL_CERT_FILE may name the authority's"
        )
    if isinstance(error, OSError):
        return ServerAway(str(error))
    if isinstance(error, (http.client.HTTPException, ValueError)):
        return ServerError(
            f"{url}: the answer is not HTTP\n  found: {shown(str(error).strip())}\n"
            "  want:  Triton's HTTP port, by default 8000; or gRPC (-i grpc) with its port, 8001"
        )
    return error


def _words(body: bytes) -> str:
    """The server's own words in the body of a refusal."""
    try:
        said = json.loads(body)["error"]
    except (ValueError, RecursionError, TypeError, KeyError, IndexError):
        said = None
    return shown(said if isinstance(said, str) else body, 500)


def output_in(body: bytes, head_length: str | None, where: str) -> Output | None:
    """The output OUTPUT of an answer; None if it has none. Numbers follow the JSON in the order of the outputs."""
    if head_length is not None and not (head_length.isdecimal() and len(head_length) < 12):
        raise ServerError(f"{where}: the answer's {HEAD_LENGTH} is {shown(head_length)!r}\n  want: a whole number")
    end = len(body) if head_length is None else int(head_length)
    if end > len(body):
        raise ServerError(f"{where}: the answer has {len(body)} bytes\n  want: {end} at least, as {HEAD_LENGTH} says")
    answer = parsed(body[:end], where)
    outputs = answer.get("outputs") if isinstance(answer, dict) else None
    for output in outputs if isinstance(outputs, list) else ():
        if not isinstance(output, dict):
            break
        about = output.get("parameters")
        size = about.get("binary_data_size") if isinstance(about, dict) else None
        if size is not None and (type(size) is not int or not 0 <= size <= len(body) - end):
            found = shown(repr(size)) if type(size) is int else type(size).__name__
            raise ServerError(
                f"{where}: the answer's binary_data_size is {found}\n  want: a whole number up to "
                f"{len(body) - end}, the bytes that follow"
            )
        if output.get("name") == OUTPUT:
            data = output.get("data") if size is None else memoryview(body)[end : end + size]
            return Output(output.get("datatype"), output.get("shape"), data)
        end += size or 0
    return None
