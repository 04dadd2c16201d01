"""Limits for the answers of an MLflow server: a size, and one time for a whole request with its answer.

MLFLOW_HTTP_REQUEST_TIMEOUT is the time that may pass between two pieces of an answer, so it never ends a server that
sends a byte a second; and MLflow reads a body of any size. So the adapter of its HTTP sessions is replaced by one that
ends the connection when the time is over, and that reads no more than a limit.
"""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from requests import PreparedRequest, Response

LARGEST_ANSWER = 2**27
"""Most bytes of an answer: 128 MiB, some times as much as 1,000 runs with all their parameters."""
REQUEST_S = 60.0
"""How long a request and its whole answer may take, with MLflow's own repetition of it."""
TOO_LARGE = "an answer of more than"
"""Begins what is said of such an answer."""
BYTES_A_SECOND = 100_000
"""The slowest connection for which an upload is given time."""
LOOK_S = 0.1
"""How soon a request that is begun after its time is ended."""


class _Times(threading.local):
    contact_ends_at: float | None = None
    """When the requests of this thread have to be answered, all of them together."""
    contact_s: float = 0.0
    """How long they have for that."""
    watch: "_Watch | None" = None
    """The watch over the request that this thread has under way."""


_times = _Times()


@contextlib.contextmanager
def within(seconds: float | None) -> Iterator[None]:
    """Gives all requests of the block together this time, or less if a block around it ends sooner.

    None gives each request its own time.
    """
    before = _times.contact_ends_at, _times.contact_s
    if seconds is not None and (before[0] is None or time.monotonic() + seconds < before[0]):
        _times.contact_ends_at, _times.contact_s = time.monotonic() + seconds, seconds
    try:
        yield
    finally:
        _times.contact_ends_at, _times.contact_s = before


class _Watch:
    """Ends the connections of one request when its time is over."""

    def __init__(self, seconds: float) -> None:
        self._seconds, self.over = seconds, False
        self._ends: list[Callable[[], object]] = []
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="mlflow's deadline")

    def __enter__(self) -> "_Watch":
        _times.watch = self
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        _times.watch = None
        self._done.set()

    def add(self, end: Callable[[], object]) -> None:
        """Notes what ends one of the request's connections."""
        self._ends.append(end)

    def _run(self) -> None:
        if self._done.wait(max(self._seconds, 0.0)):
            return
        self.over = True
        while True:
            for end in list(self._ends):
                with contextlib.suppress(OSError, ValueError, RuntimeError):  # it has ended
                    end()
            if self._done.wait(LOOK_S):
                return


def _allowed_s(headers: Mapping[str, str]) -> tuple[float, str]:
    """The time for a request, or for a body that is downloaded, and what is said when it is over.

    It is longer if its headers say that it is large, and shorter if the contact that it is part of ends sooner.
    """
    length = str(headers.get("Content-Length", "0"))
    seconds = REQUEST_S + (int(length) / BYTES_A_SECOND if length.isdecimal() and len(length) < 16 else 0)
    if _times.contact_ends_at is not None and (left := _times.contact_ends_at - time.monotonic()) < seconds:
        return left, f"found no end of the answers in {_times.contact_s:.3g} s, want all of them within that"
    return seconds, f"found no whole answer in {seconds:.3g} s, want one within that"


def _read(response: "Response") -> None:
    """Reads the body; raises RequestException if it is too large."""
    from requests.exceptions import RequestException

    body = bytearray()
    for piece in response.iter_content(2**16):
        body += piece
        if len(body) > LARGEST_ANSWER:
            raise RequestException(
                f"found {TOO_LARGE} {LARGEST_ANSWER:,} bytes, want one of at most that", response=response
            )
    response._content = bytes(body)  # as requests itself keeps a body


def _pieces_in_time(response: "Response", plain: Callable[..., Iterator[bytes]], *args: Any, **kwargs: Any) -> Any:
    """The pieces of the body of a file that is downloaded; raises Timeout if they take too long."""
    from requests.exceptions import Timeout

    seconds, late = _allowed_s(response.headers)
    with _Watch(seconds) as watch:
        watch.add(response.raw.shutdown)
        try:
            yield from plain(*args, **kwargs)
        except Exception as error:
            if watch.over:
                raise Timeout(late, response=response) from error
            raise
        if watch.over:  # a body without a length ends where its connection does
            raise Timeout(late, response=response)


def bound_answers() -> None:
    """Makes MLflow's HTTP sessions of this process keep the limits; does nothing if they do already."""
    from mlflow.utils import request_utils
    from requests.exceptions import Timeout
    from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool

    plain = request_utils.TCPKeepAliveHTTPAdapter
    if getattr(plain, "is_bounded", False):
        return

    class Watched:
        def _make_request(self, connection: Any, *args: Any, **kwargs: Any) -> Any:
            watch = _times.watch
            if watch is not None:
                watch.add(lambda: connection.sock and connection.sock.shutdown(socket.SHUT_RDWR))
            response = super()._make_request(connection, *args, **kwargs)  # type: ignore[misc]
            if watch is not None:  # the connection forgets a socket that closes after this answer
                watch.add(response.shutdown)
            return response

    pools = {
        "http": type("HTTPConnectionPool", (Watched, HTTPConnectionPool), {}),
        "https": type("HTTPSConnectionPool", (Watched, HTTPSConnectionPool), {}),
    }

    class Bounded(plain):  # type: ignore[misc, valid-type]
        is_bounded = True

        def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
            super().init_poolmanager(*args, **kwargs)
            self.poolmanager.pool_classes_by_scheme = pools

        def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
            manager = super().proxy_manager_for(*args, **kwargs)
            manager.pool_classes_by_scheme = pools
            return manager

        def send(self, request: "PreparedRequest", stream: bool = False, **kwargs: Any) -> "Response":
            seconds, late = _allowed_s(request.headers)
            with _Watch(seconds) as watch:
                if seconds <= 0:
                    raise Timeout(late, request=request)
                try:
                    response: Response = super().send(request, stream=stream, **kwargs)
                    if not stream:
                        _read(response)
                except Exception as error:
                    if watch.over:
                        raise Timeout(late, request=request) from error
                    raise
                if watch.over and not stream:  # a body without a length ends where its connection does
                    raise Timeout(late, request=request)
                if stream:
                    response.iter_content = partial(_pieces_in_time, response, response.iter_content)  # type: ignore[method-assign]
                return response

    request_utils.TCPKeepAliveHTTPAdapter = Bounded
    request_utils._cached_get_request_session.cache_clear()
