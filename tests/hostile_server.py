"""A server in a thread that answers each request with whatever bytes a test gives, slowly or without end."""

import contextlib
import json
import socketserver
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

Answer = bytes | Iterable[bytes]


def http(body: bytes, *, status: str = "200 OK", **headers: object) -> bytes:
    """An HTTP answer; `headers` may state another Content_Length."""
    lines = {"Content-Length": len(body), **{name.replace("_", "-"): value for name, value in headers.items()}}
    head = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body


def as_json(value: Any, **more: Any) -> bytes:
    """An HTTP answer of JSON."""
    return http(json.dumps(value).encode(), **more)


def dripping(answer: bytes, stop: threading.Event, *, pause_s: float = 0.02) -> Iterator[bytes]:
    """The answer, a byte at a time, then blanks for ever."""
    for byte in answer:
        yield bytes([byte])
        if stop.wait(pause_s):
            return
    while not stop.wait(pause_s):
        yield b" "


class HostileServer:
    """Answers requests as `answer` says of their method and path; all of them are in `asked`."""

    def __init__(self, answer: Callable[[str, str], Answer]) -> None:
        self.answer, self.asked, self.stop = answer, [], threading.Event()
        server = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                with contextlib.suppress(OSError):
                    while not server.stop.is_set() and self._one():
                        pass

            def _one(self) -> bool:
                words = self.rfile.readline().decode("latin-1").split()
                if len(words) != 3:
                    return False
                length = 0
                while (line := self.rfile.readline()) not in (b"\r\n", b""):
                    name, _, value = line.partition(b":")
                    length = int(value) if name.lower() == b"content-length" else length
                self.rfile.read(length)
                server.asked.append(f"{words[0]} {words[1]}")
                given = server.answer(words[0], words[1])
                for piece in [given] if isinstance(given, bytes) else given:
                    self.wfile.write(piece)
                return isinstance(given, bytes) and b"Content-Length" in given

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

        self._server = Server(("127.0.0.1", 0), Handler)
        self.asked: list[str]
        self.address = f"127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "HostileServer":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._server.shutdown()
        self._server.server_close()
