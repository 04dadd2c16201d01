"""A real Triton server on the CPU: the one in NVIDIA's wheel nvidia-pytriton, in an environment of its own.

Not in the project's own, because the Python backend in it hands out empty tensors with numpy 2. The environment is
made at first use, from tests/tritonserver.lock, and kept in .cache/triton-venv.
"""

import contextlib
import ctypes.util
import fcntl
import hashlib
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
import venv
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import pytest

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "tests" / "tritonserver.lock"
CACHE = ROOT / ".cache" / "triton-venv"
READY_S = 60.0

SCRIPT = """\
#!/bin/sh
PATH="{bin}:$PATH" LD_LIBRARY_PATH="{libraries}" exec {server} --backend-directory={backends} "$@"
"""
"""What is called tritonserver. The stub of the Python backend finds its interpreter by the PATH."""


def tritonserver() -> Path:
    """The folder of an executable tritonserver; the test is skipped where there cannot be one."""
    machine = f"{platform.system()} {platform.machine()}"
    if machine != "Linux x86_64" or not (3, 11) <= sys.version_info < (3, 13):
        pytest.skip(
            f"NO REAL TRITON SERVER HERE: {machine}, Python {platform.python_version()}; its wheel is for Linux "
            "x86_64, and numpy 1 for Python below 3.13"
        )
    shared = Path(sysconfig.get_config_var("LIBDIR")) / str(sysconfig.get_config_var("INSTSONAME"))
    if not shared.exists() and not ctypes.util.find_library(f"python{sysconfig.get_python_version()}"):
        pytest.skip(f"NO REAL TRITON SERVER HERE: its backend needs the Python of {sys.prefix} as a shared library")
    CACHE.parent.mkdir(exist_ok=True)
    with (CACHE.parent / "triton-venv.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # tests run in several processes
        stamp, wanted = CACHE / ".installed", hashlib.sha256(LOCK.read_bytes()).hexdigest()
        if not stamp.exists() or stamp.read_text() != wanted:
            _install()
            stamp.write_text(wanted)
    return CACHE / "server"


def _install() -> None:
    venv.create(CACHE, clear=True, with_pip=True)
    python = CACHE / "bin" / "python"
    pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes", "--no-deps"]
    subprocess.run([*pip, "-r", LOCK], check=True)
    packages = next((CACHE / "lib").glob("python3.*/site-packages"))
    server = packages / "pytriton" / "tritonserver"
    version = packages.parent.name.removeprefix("python")
    stub = server / "python_backend_stubs" / version / "triton_python_backend_stub"
    shutil.copy(stub, server / "backends" / "python")
    script = CACHE / "server" / "tritonserver"
    script.parent.mkdir()
    script.write_text(
        SCRIPT.format(
            bin=CACHE / "bin",
            libraries=f"{sysconfig.get_config_var('LIBDIR')}:{packages / 'nvidia_pytriton.libs'}",
            server=server / "bin" / "tritonserver",
            backends=server / "backends",
        )
    )
    script.chmod(0o755)


def free_ports(count: int) -> list[int]:
    """Ports that nobody has; held together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


class TritonServer:
    """A server of one model repository; stopped and started again at the same ports."""

    def __init__(self, repository: Path, log: Path) -> None:
        self.repository, self.log = repository, log
        self.http_port, self.grpc_port = free_ports(2)
        self._process: subprocess.Popen[bytes] | None = None
        self._shared_memory = f"reid_test_{os.getpid()}_{self.http_port}"

    @property
    def http(self) -> str:
        return f"localhost:{self.http_port}"

    @property
    def grpc(self) -> str:
        return f"localhost:{self.grpc_port}"

    def url(self, protocol: str) -> str:
        return {"http": self.http, "grpc": self.grpc}[protocol]

    def start(self) -> "TritonServer":
        """Returns when it is ready."""
        options = {
            "model-repository": self.repository,
            "http-port": self.http_port,
            "grpc-port": self.grpc_port,
            "http-address": "127.0.0.1",
            "grpc-address": "127.0.0.1",
            "allow-metrics": "false",
            "exit-timeout-secs": 2,
            "backend-config": f"python,shm-region-prefix-name={self._shared_memory}",
        }
        command = [tritonserver() / "tritonserver", *(f"--{name}={value}" for name, value in options.items())]
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        wait_ready(self.http_port, self._process, self.log)
        return self

    def stop(self, how: signal.Signals) -> None:
        """Sends it the signal and waits for its end."""
        assert self._process
        os.kill(self._process.pid, how)
        self._process.wait(60)
        self.kill()

    def send(self, which: signal.Signals) -> None:
        """Sends the signal to it, not to the processes of its backend."""
        assert self._process
        os.kill(self._process.pid, which)

    def kill(self) -> None:
        """SIGKILL, for it and the processes of its backend."""
        if self._process:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
        for leftover in Path("/dev/shm").glob(f"{self._shared_memory}*"):
            leftover.unlink(missing_ok=True)


def wait_ready(http_port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Until the server answers; its log is the failure's text."""
    give_up_at = time.monotonic() + READY_S
    while time.monotonic() < give_up_at and process.poll() is None:
        try:
            with urlopen(f"http://127.0.0.1:{http_port}/v2/health/ready", timeout=1):
                return
        except (URLError, OSError):
            time.sleep(0.1)
    pytest.fail(f"Triton is not ready, status {process.poll()}:\n{log.read_text(errors='replace')[-4000:]}")
