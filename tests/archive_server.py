"""A web server of one file that does what bad ones do: breaks off, knows no ranges, is out of order for a while."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class ArchiveServer:
    """What it answers, and what it was asked."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.ranges = True
        """Whether it understands Range."""
        self.breaks_after: list[int] = []
        """For each answer to come: bytes after which the connection breaks."""
        self.statuses: list[int] = []
        """For each answer to come: an HTTP status in place of the file."""
        self.asked: list[str | None] = []
        """The Range of each request."""
        self.url = ""


@contextmanager
def serving(content: bytes) -> Iterator[ArchiveServer]:
    """The server, at its url."""
    state = ArchiveServer(content)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("Range")
            state.asked.append(wanted)
            if state.statuses:
                self.send_error(state.statuses.pop(0))
                return
            start = int(wanted.removeprefix("bytes=").removesuffix("-")) if wanted and state.ranges else 0
            if start and start >= len(state.content):
                self.send_error(416)
                return
            part = state.content[start:]
            self.send_response(206 if start else 200)
            self.send_header("Content-Length", str(len(part)))
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(state.content) - 1}/{len(state.content)}")
            self.end_headers()
            self.wfile.write(part[: state.breaks_after.pop(0)] if state.breaks_after else part)

        def log_message(self, format: str, *args: object) -> None:
            """Nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state.url = f"http://127.0.0.1:{server.server_port}/market.zip"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield state
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
