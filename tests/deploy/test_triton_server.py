"""What is started as Triton, and what is said where there is nothing to start."""

import ctypes
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reid.deploy.triton_server import serve, server_command
from reid.errors import MissingDependency, ServerError

PORTS = {"http": 9000, "grpc": 9001, "metrics": 9002}


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only folder of the PATH, empty."""
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(folder: Path, name: str) -> str:
    (folder / name).write_text("#!/bin/sh\n")
    (folder / name).chmod(0o755)
    return str(folder / name)


def command(repository: Path) -> list[str]:
    return server_command(repository, image="triton:1", gpu_id=0, ports=PORTS)


def test_a_tritonserver_on_the_path_is_started_before_docker(programs: Path, tmp_path: Path) -> None:
    server, _ = program(programs, "tritonserver"), program(programs, "docker")
    assert command(tmp_path / "models")[-5:] == [
        server, f"--model-repository={tmp_path}/models", "--http-port=9000", "--grpc-port=9001", "--metrics-port=9002",
    ]  # fmt: skip


def test_docker_runs_the_image_with_the_ports_outside_and_the_repository_inside(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = program(programs, "docker")
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert command(tmp_path / "models") == [
        docker, "run", "--rm", "--shm-size=1g", "-p", "9000:8000", "-p", "9001:8001", "-p", "9002:8002",
        "-v", f"{tmp_path}/models:/models:ro", "triton:1", "tritonserver", "--model-repository=/models",
    ]  # fmt: skip


def no_driver(_: str) -> None:
    raise OSError


def test_where_there_is_nothing_to_start_both_ways_are_named(programs: Path, tmp_path: Path) -> None:
    with pytest.raises(MissingDependency) as caught:
        command(tmp_path / "models")
    assert str(caught.value) == (
        "Triton: neither tritonserver nor docker is on the PATH\n"
        "  want: docker, to start triton:1 (triton.server_image), or a tritonserver;\n"
        f"        or load this folder into a server elsewhere: {tmp_path}/models"
    )


def test_a_server_that_ends_by_itself_is_an_error_with_its_status() -> None:
    with pytest.raises(ServerError) as caught:
        serve(["sh", "-c", "exit 3"], http_port=1)
    assert str(caught.value) == "Triton ended with status 3 before it was ready: sh -c exit 3"


def test_what_was_started_does_not_outlive_an_interruption(tmp_path: Path) -> None:
    """The stand-in for a server writes its process id and sleeps."""
    script = f"echo $$ > {tmp_path}/pid; exec sleep 600"
    code = (
        "import _thread, threading, sys; from reid.deploy.triton_server import serve; "
        "threading.Timer(1, _thread.interrupt_main).start(); serve(['sh', '-c', sys.argv[1]], http_port=1)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, script], env=environment, check=True, timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
