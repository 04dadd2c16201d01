"""A connection whose every operation ends by a deadline, and that another thread can end.

The timeout of a socket is for each piece that comes, so a server that sends a byte a second has no end. Here each
piece gets the time that is left.
"""

import contextlib
import errno
import io
import os
import queue
import select
import socket
import ssl
import threading
import time
from typing import Any

LOOK_S = 0.25
"""How soon a connection that is being made notices that it was closed."""


class Link:
    """A socket whose every operation ends by `deadline`; http.client takes it for a socket."""

    def __init__(self, closed: threading.Event) -> None:
        """`closed` is set by a thread that wants no connection any more, before it calls `shut`."""
        self.sock: socket.socket | None = None
        self.deadline, self._closed = 0.0, closed

    def _in_time(self) -> socket.socket:
        """The socket, which gets the time that is left; raises TimeoutError if none is, OSError without a socket."""
        left = self.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("no whole answer in time")
        if self.sock is None:
            raise ConnectionError("the connection was closed")
        self.sock.settimeout(left)
        return self.sock

    def connect(self, host: str, port: int, tls: ssl.SSLContext | None) -> None:
        """Connects to the first address of the host that takes a connection, unless it is connected already."""
        if self.sock is not None:
            return
        problem: OSError = OSError(f"no address of {host}")
        for family, kind, protocol, _, address in _addresses(host, port, self.deadline):
            self.sock = socket.socket(family, kind, protocol)
            try:
                self._knock(self.sock, address)
            except OSError as error:
                problem = error
                self.shut()
                continue
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if tls:
                secure = self.sock = tls.wrap_socket(self.sock, server_hostname=host, do_handshake_on_connect=False)
                self._in_time()
                secure.do_handshake()
            return
        raise problem

    def _knock(self, sock: socket.socket, address: Any) -> None:
        """Connects the socket; ends soon after the connection is not wanted any more."""
        sock.setblocking(False)
        status = sock.connect_ex(address)
        while status in (errno.EINPROGRESS, errno.EALREADY) and not self._closed.is_set():
            _, writable, _ = select.select([], [sock], [], min(LOOK_S, max(self.deadline - time.monotonic(), 0.0)))
            status = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) if writable else status
            if status and time.monotonic() > self.deadline:
                raise TimeoutError("no connection in time")
        if status:
            raise OSError(status, os.strerror(status))

    def send(self, data: bytes | memoryview) -> None:
        """Sends all of the data."""
        self._in_time().sendall(data)  # the timeout of sendall is for all of the data

    def receive(self, buffer: Any) -> int:
        """Fills a part of the buffer; returns how much, 0 at the end."""
        return self._in_time().recv_into(buffer)

    def makefile(self, _mode: str) -> io.BufferedReader:
        """The bytes that the server sends, as http.client reads an answer; closing it leaves the socket open."""
        return io.BufferedReader(_Bytes(self))

    def shut(self) -> None:
        """Ends the connection; a thread that waits for it wakes."""
        sock, self.sock = self.sock, None
        if sock is not None:
            with contextlib.suppress(OSError):  # it was not connected any more
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()


class _Bytes(io.RawIOBase):
    def __init__(self, link: Link) -> None:
        super().__init__()
        self._link = link

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._link.receive(buffer)


def _addresses(host: str, port: int, deadline: float) -> list[Any]:
    """The host's addresses; the system's resolver knows no deadline, so it is asked in a thread of its own."""
    answers: queue.SimpleQueue[list[Any] | Exception] = queue.SimpleQueue()

    def ask() -> None:
        try:
            answers.put(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))
        except (OSError, UnicodeError) as error:
            answers.put(error)

    threading.Thread(target=ask, daemon=True, name="resolver").start()
    try:
        answer = answers.get(timeout=max(deadline - time.monotonic(), 0.0))
    except queue.Empty:
        raise TimeoutError(f"the name {host} is not resolved in time") from None
    if isinstance(answer, UnicodeError):
        raise OSError(f"{host}: not the name of a machine") from answer
    if isinstance(answer, Exception):
        raise answer
    return answer
