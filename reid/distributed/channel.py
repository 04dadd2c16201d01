"""The line between the task's process and the ranks that it has started on this machine.

A socket in a folder that only this user can enter. Every rank connects to it, names itself and gets the request, which
may hold secrets and therefore is no argument of a command. From then on a rank writes JSON lines: rank 0 its log and
its calls (figures for MLflow, rows of the history), each rank how it ended. When the line breaks, the other side is
gone: a rank then exits, and the task's process ends the other ranks.
"""

import json
import logging
import os
import shutil
import socket
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, TextIO

from reid import errors
from reid.errors import ReidError

SOCKET = "REID_RANKS"
"""The environment variable that names the socket to a rank."""
LONGEST_PATH = 90
"""Linux takes 107 bytes as the path of a socket."""
LAST_WORDS_S = 2.0
"""How long what a rank wrote before its end is waited for, once nothing of it is being heard."""
HEARD_AGAIN_S = 0.1

logger = logging.getLogger(__name__)


class Channel:
    """The side of the task's process. What the ranks told is in its attributes once it is closed."""

    def __init__(self, request: Mapping[str, Any], heard: Mapping[str, Callable[..., None]]) -> None:
        """request: plain values for every rank; heard: name -> the function that rank 0 may call by `tell`."""
        self.result: Any = None
        self.has_result = self.interrupted = False
        self.errors: list[ReidError] = []
        """What users can correct, in the order in which ranks told it."""
        self.failures: dict[int, str] = {}
        """Other errors, by rank."""
        self.lost: list[int] = []
        """Ranks that ended without a word."""
        self.fault: BaseException | None = None
        """What one of the functions in `heard` raised."""
        self._request, self._heard = json.dumps(request) + "\n", heard
        self._lock, self._calling = threading.Lock(), threading.Lock()
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._ending = False
        folder = tempfile.mkdtemp(prefix="reid-")
        if len(folder) > LONGEST_PATH:
            shutil.rmtree(folder)
            folder = tempfile.mkdtemp(prefix="reid-", dir="/tmp")
        self._folder = Path(folder)
        self.path = str(self._folder / "ranks")
        self._server = socket.socket(socket.AF_UNIX)
        self._server.bind(self.path)
        self._server.listen()
        self._start(self._accept)

    def close(self) -> None:
        """Hears what the ranks still have to tell, ends those that are there, and removes the socket."""
        with suppress(OSError):
            self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        with self._lock:
            listening = list(self._threads)
        deadline = time.monotonic() + LAST_WORDS_S
        for thread in listening:
            while thread.is_alive() and time.monotonic() < deadline:
                thread.join(HEARD_AGAIN_S)
                if self._calling.locked():  # a slow disk holds up the task, and the rank's result comes after its calls
                    deadline = time.monotonic() + LAST_WORDS_S
        self.end_ranks()
        shutil.rmtree(self._folder, ignore_errors=True)

    def end_ranks(self) -> None:
        """Breaks the line to all ranks, which exit at once."""
        with self._lock:
            self._ending = True
            for connection in self._connections:
                with suppress(OSError):  # that rank is gone already
                    connection.shutdown(socket.SHUT_RDWR)

    def _start(self, work: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=work, args=arguments, name="ranks", daemon=True)
        with self._lock:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with self._lock:
                self._connections.append(connection)
                ending = self._ending
            if ending:
                connection.close()
            else:
                self._start(self._listen, connection)

    def _listen(self, connection: socket.socket) -> None:
        """Hears one rank until its line breaks."""
        rank, said_how = -1, False
        try:
            with connection, connection.makefile("r", encoding="utf-8") as lines:
                rank = int(json.loads(lines.readline())["rank"])
                connection.sendall(self._request.encode())
                for line in lines:
                    said_how = self._take(rank, json.loads(line)) or said_how
        except (OSError, ValueError):
            pass  # cut off in the middle of a line
        with self._lock:
            unexpected = not said_how and not self._ending
            if unexpected and rank >= 0:
                self.lost.append(rank)
        if unexpected:
            self.end_ranks()

    def _take(self, rank: int, told: dict[str, Any]) -> bool:
        """Takes one message; returns whether it says how the rank ended."""
        kind = told["kind"]
        if kind == "call":
            self._call(told["name"], told["arguments"])
        elif kind == "log":
            _log(told)
        elif kind == "result":
            self.result, self.has_result = told["value"], True
        else:
            with self._lock:
                if self._ending:  # a consequence of what ended the others
                    return True
                if kind == "error":
                    self.errors.append(error_from(told))
                elif kind == "failure":
                    self.failures[rank] = told["text"]
                elif kind == "interrupted":
                    self.interrupted = True
            if kind in ("error", "failure"):
                self.end_ranks()
            return True
        return False

    def _call(self, name: str, arguments: dict[str, Any]) -> None:
        with self._calling:
            try:
                if not self.fault:
                    self._heard[name](**arguments)
            except BaseException as error:
                self.fault = error
                self.end_ranks()


def _log(told: Mapping[str, Any]) -> None:
    named = logging.getLogger(told["logger"])
    if named.isEnabledFor(told["level"]):
        named.handle(named.makeRecord(named.name, told["level"], told["file"], told["line"], told["text"], (), None))


def error_from(told: Mapping[str, Any]) -> ReidError:
    """The error that another process described by `described`."""
    kind: type[ReidError] = getattr(errors, told["class"], ReidError)
    return kind(told["text"])


def described(error: ReidError) -> dict[str, str]:
    """The error as plain values, for error_from."""
    return {"class": type(error).__name__, "text": str(error)}


class Line:
    """A rank's side of the channel. It exits when the line breaks."""

    def __init__(self, path: str, *, rank: int) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(path)
        os.register_at_fork(after_in_child=self._close_in_fork)
        self.forked = False
        """Whether this process is a fork of the rank, a loader process for example; it has no part in the line."""
        self._lock = threading.RLock()
        self._unsent: deque[bytes] = deque()
        self._sending = False
        self._answers: TextIO = self._socket.makefile("r", encoding="utf-8")
        self._send({"rank": rank})
        answer = self._answers.readline()
        if not answer:
            os._exit(1)
        self.request: dict[str, Any] = json.loads(answer)
        threading.Thread(target=self._exit_when_broken, name="parent", daemon=True).start()

    def tell(self, kind: str, **values: Any) -> None:
        """Sends one message."""
        self._send({"kind": kind, **values})

    def _send(self, message: dict[str, Any]) -> None:
        encoded = json.dumps(message, default=float).encode() + b"\n"
        with self._lock:
            self._unsent.append(encoded)
            if self._sending:  # a signal's handler logs in the middle of another message, which is sent first
                return
            self._sending = True
            try:
                while self._unsent:
                    self._socket.sendall(self._unsent.popleft())
            except OSError:  # the other thread is about to end this process
                os._exit(1)
            finally:
                self._sending = False

    def _close_in_fork(self) -> None:
        """Closes the line in a forked process, which would keep it whole after the rank's end."""
        if not self.forked:
            self.forked = True
            os.close(self._socket.detach())

    def _exit_when_broken(self) -> None:
        self._answers.read()
        os._exit(1)


class ToldRecords(logging.Handler):
    """Sends log records to the task's process, which shows them as its own."""

    def __init__(self, line: Line) -> None:
        super().__init__()
        self._line = line

    def emit(self, record: logging.LogRecord) -> None:
        """Sends one record."""
        text = self.format(record) if record.exc_info else record.getMessage()
        if self._line.forked:
            sys.stderr.write(f"{record.levelname} {text}\n")
            return
        self._line.tell(
            "log", logger=record.name, level=record.levelno, file=record.pathname, line=record.lineno, text=text
        )
