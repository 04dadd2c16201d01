"""Starts Triton Inference Server: a tritonserver on the PATH, else its container image."""

import errno
import http.client
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import IO
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from reid.deploy.gpu import use_gpu
from reid.deploy.triton_answers import shown
from reid.deploy.triton_connection import Server, ServerAway, UnknownModel
from reid.deploy.triton_http import HttpConnection
from reid.errors import MissingDependency, ServerError

logger = logging.getLogger(__name__)

IN_IMAGE = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""The server's ports inside the container."""
POLL_S = 0.25
STOPPING_S = 40.0
"""How long the server may take to stop; Triton itself gives requests under way 30 s."""
ALL_ADDRESSES = "0.0.0.0"
ERROR = re.compile(r"(?:E\d{4} [\d:.]+ +\d+ \S+\] |error: )(?P<words>.*)")
"""A line of Triton's log that tells a failure."""
CAUSES = 3
"""How many of the last failures in Triton's log an error repeats."""
ASK_S = 1.0
"""How long a program at a port that is taken may take to say what it is."""


def server_command(repository: Path, *, image: str, gpu_id: int, address: str, ports: dict[str, int]) -> list[str]:
    """The command that serves `repository` at `ports` ("http", "grpc", "metrics") of this machine's `address`.

    It uses GPU `gpu_id` if there is a GPU. A container listens on all of its own addresses, and docker publishes its
    ports at `address`.

    Raises MissingDependency if there is neither tritonserver nor docker, SpecError if there are GPUs but not this one.
    """
    has_gpu = use_gpu(gpu_id, field="triton.gpu_id") is not None
    if server := shutil.which("tritonserver"):
        options = [f"--{name}-address={address}" for name in ports]
        options += [f"--{name}-port={port}" for name, port in ports.items()]
        visible = ["env", f"CUDA_VISIBLE_DEVICES={gpu_id}"] if has_gpu else []
        return [*visible, server, f"--model-repository={repository.resolve()}", *options]
    if docker := shutil.which("docker"):
        published = [word for name, port in ports.items() for word in ("-p", f"{address}:{port}:{IN_IMAGE[name]}")]
        gpus = ["--gpus", f"device={gpu_id}"] if has_gpu else []
        mount = f"{repository.resolve()}:/models:ro"
        return [
            docker, "run", "--rm", "--shm-size=1g", *gpus, *published, "-v", mount, image,
            "tritonserver", "--model-repository=/models",
        ]  # fmt: skip
    raise MissingDependency(
        "Triton: neither tritonserver nor docker is on the PATH\n"
        f"  want: docker, to start {image} (triton.server_image), or a tritonserver;\n"
        f"        or load this folder into a server elsewhere: {repository.resolve()}"
    )


def refuse_taken_ports(address: str, ports: dict[str, int]) -> None:
    """Raises ServerError if the machine has no such address, or if another program listens at one of the ports."""
    for name, port in ports.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as Triton: a closed connection is no server
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno == errno.EADDRNOTAVAIL:
                    raise ServerError(
                        f"triton.address: {address} is no address of this machine\n"
                        f"  want: 127.0.0.1 for programs of this machine, {ALL_ADDRESSES} for all"
                    ) from None
                if error.errno == errno.EADDRINUSE:
                    raise ServerError(
                        f"triton.{name}_port: port {port} of {address} is taken\n  found: {_who_is_at(address, port)}\n"
                        "  want:  another port, or the other program stopped"
                    ) from None


def asked_at(address: str) -> str:
    """The host by which programs of this machine reach a server that listens on `address`."""
    return "localhost" if address in ("127.0.0.1", ALL_ADDRESSES) else address


def _who_is_at(address: str, port: int) -> str:
    """The program at the port, in words, as far as it says so by HTTP."""
    connection = HttpConnection(Server(f"{asked_at(address)}:{port}", "http", "", ""))
    try:
        about = connection.about(deadline=time.monotonic() + ASK_S)
    except UnknownModel:
        return "a program that speaks HTTP, but is no Triton"
    except (ServerAway, ServerError):
        return "a program that does not speak Triton's HTTP"
    finally:
        connection.close()
    name, version = (about.get(key) if isinstance(about, dict) else None for key in ("name", "version"))
    return shown(f"the server {name} {version}") if name else "a program that speaks HTTP, but is no Triton"


def serve(command: list[str], *, address: str, http_port: int) -> None:
    """Runs the server until it ends or this process is interrupted, and says when it is ready.

    Raises ServerError with its exit status and the last failures of its log if it ends by itself; the whole log goes to
    the terminal.
    """
    url = f"http://{asked_at(address)}:{http_port}"
    # a session of its own: Ctrl-C reaches it once, from here
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True)
    causes: deque[str] = deque(maxlen=CAUSES)
    assert server.stderr
    reader = threading.Thread(target=_pass_on, args=(server.stderr, causes), daemon=True, name="triton's log")
    reader.start()
    ready = False
    try:
        while server.poll() is None:
            if not ready and _is_ready(url) and server.poll() is None:
                ready = True
                logger.info("Triton is ready: %s; Ctrl-C stops it", url)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        logger.info("stopping Triton")
        return
    finally:
        _stop(server)
        reader.join(1)
        if not reader.is_alive():  # a child that outlives the server may still hold the pipe
            server.stderr.close()
    found = "".join(f"\n  found: {cause}" for cause in causes)
    raise ServerError(
        f"Triton ended with status {server.returncode}{'' if ready else ' before it was ready'}: {' '.join(command)}"
        f"{found}"
    )


def _pass_on(log: IO[bytes], causes: "deque[str]") -> None:
    """Writes the server's log to the terminal, and keeps its failures in `causes`."""
    while line := log.readline(2**16):
        text = line.decode("utf-8", "replace")
        if failure := ERROR.match(text):
            causes.append(shown(failure["words"].strip().strip('"'), 500))
        with suppress(OSError, ValueError):  # a terminal that is gone; the server must not wait for it
            sys.stderr.write(text)
            sys.stderr.flush()


def _is_ready(url: str) -> bool:
    direct = build_opener(ProxyHandler({}))  # http_proxy is for other machines
    try:
        with direct.open(f"{url}/v2/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError, ValueError, http.client.HTTPException):
        return False


def _stop(server: "subprocess.Popen[bytes]") -> None:
    """Ends the server: by SIGTERM first, and if that takes too long, it and its children by SIGKILL."""
    if server.poll() is not None:
        return
    server.terminate()
    try:
        server.wait(STOPPING_S)
    except subprocess.TimeoutExpired:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
