"""Starts Triton Inference Server: a tritonserver on the PATH, else its container image."""

import logging
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path
from urllib.error import URLError
from urllib.request import ProxyHandler, build_opener

from reid.deploy.gpu import use_gpu
from reid.errors import MissingDependency, ServerError

logger = logging.getLogger(__name__)

IN_IMAGE = {"http": 8000, "grpc": 8001, "metrics": 8002}
"""The server's ports inside the container."""
POLL_S = 0.25
STOPPING_S = 40.0
"""How long the server may take to stop; Triton itself gives requests under way 30 s."""


def server_command(repository: Path, *, image: str, gpu_id: int, ports: dict[str, int]) -> list[str]:
    """The command that serves `repository` at `ports` ("http", "grpc", "metrics"), on GPU `gpu_id` if there is a GPU.

    Raises MissingDependency if there is neither tritonserver nor docker, SpecError if there are GPUs but not this one.
    """
    has_gpu = use_gpu(gpu_id, field="triton.gpu_id") is not None
    if server := shutil.which("tritonserver"):
        options = [f"--{name}-port={port}" for name, port in ports.items()]
        visible = ["env", f"CUDA_VISIBLE_DEVICES={gpu_id}"] if has_gpu else []
        return [*visible, server, f"--model-repository={repository.resolve()}", *options]
    if docker := shutil.which("docker"):
        published = [word for name, port in ports.items() for word in ("-p", f"{port}:{IN_IMAGE[name]}")]
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


def serve(command: list[str], *, http_port: int) -> None:
    """Runs the server until it ends or this process is interrupted, and says when it is ready.

    Raises ServerError with its exit status if it ends by itself; its own messages stand above on the terminal.
    """
    # a session of its own: Ctrl-C reaches it once, from here
    server = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    ready = False
    try:
        while server.poll() is None:
            if not ready and _is_ready(http_port):
                ready = True
                logger.info("Triton is ready: http://localhost:%d; Ctrl-C stops it", http_port)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        logger.info("stopping Triton")
        return
    finally:
        _stop(server)
    raise ServerError(
        f"Triton ended with status {server.returncode}{'' if ready else ' before it was ready'}: {' '.join(command)}"
    )


def _is_ready(http_port: int) -> bool:
    direct = build_opener(ProxyHandler({}))  # http_proxy is for other machines
    try:
        with direct.open(f"http://localhost:{http_port}/v2/health/ready", timeout=1) as answer:
            return bool(answer.status == 200)
    except (URLError, OSError):
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
