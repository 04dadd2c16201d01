"""What is started as Triton, and what is said where there is nothing to start."""

import ctypes
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from reid.deploy.triton_server import refuse_taken_ports, serve, server_command
from reid.errors import MissingDependency, ServerError
from tests.hostile_server import HostileServer, as_json, http

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
    return server_command(repository, image="triton:1", gpu_id=0, address="127.0.0.1", ports=PORTS)


def test_a_tritonserver_on_the_path_is_started_before_docker(programs: Path, tmp_path: Path) -> None:
    server, _ = program(programs, "tritonserver"), program(programs, "docker")
    assert command(tmp_path / "models")[-8:] == [
        server, f"--model-repository={tmp_path}/models",
        "--http-address=127.0.0.1", "--grpc-address=127.0.0.1", "--metrics-address=127.0.0.1",
        "--http-port=9000", "--grpc-port=9001", "--metrics-port=9002",
    ]  # fmt: skip


def test_docker_runs_the_image_with_the_ports_outside_and_the_repository_inside(
    programs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    docker = program(programs, "docker")
    monkeypatch.setattr(ctypes, "CDLL", no_driver)
    assert command(tmp_path / "models") == [
        docker, "run", "--rm", "--shm-size=1g", "-p", "127.0.0.1:9000:8000", "-p", "127.0.0.1:9001:8001",
        "-p", "127.0.0.1:9002:8002", "-v", f"{tmp_path}/models:/models:ro", "triton:1",
        "tritonserver", "--model-repository=/models",
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
        serve(["sh", "-c", "exit 3"], address="127.0.0.1", http_port=1)
    assert str(caught.value) == "Triton ended with status 3 before it was ready: sh -c exit 3"


LOG = """\
I1127 20:01:01.389248 20202 model_lifecycle.cc:472] "loading: m:1"
E1127 20:01:01.389647 20202 model_lifecycle.cc:642] "failed to load 'm' version 1: unable to find backend library"
error: creating server: Internal - failed to load all models
"""


def test_the_cause_in_the_servers_own_log_is_part_of_the_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").write_text(LOG)
    with pytest.raises(ServerError) as caught:
        serve(["sh", "-c", f"cat {tmp_path}/log >&2; exit 1"], address="127.0.0.1", http_port=1)
    assert str(caught.value).splitlines()[1:] == [
        "  found: failed to load 'm' version 1: unable to find backend library",
        "  found: creating server: Internal - failed to load all models",
    ]
    assert capsys.readouterr().err == LOG


@pytest.mark.parametrize(
    ("answer", "found"),
    [
        (as_json({"name": "triton", "version": "2.51.0"}), "the server triton 2.51.0"),
        (as_json(["\x1b[2J"]), "a program that speaks HTTP, but is no Triton"),
        (http(b"", status="404 Not Found"), "a program that speaks HTTP, but is no Triton"),
        (b"SSH-2.0\r\n\r\n", "a program that does not speak Triton's HTTP"),
    ],
)
def test_a_port_that_is_taken_is_named_with_the_program_there(answer: bytes, found: str) -> None:
    with HostileServer(lambda *_: answer) as other, pytest.raises(ServerError) as caught:
        port = int(other.address.partition(":")[2])
        refuse_taken_ports("127.0.0.1", {"grpc": port})
    assert str(caught.value) == (
        f"triton.grpc_port: port {port} of 127.0.0.1 is taken\n  found: {found}\n"
        "  want:  another port, or the other program stopped"
    )


def test_an_address_of_another_machine_is_refused_and_a_free_port_is_not() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    refuse_taken_ports("127.0.0.1", {"http": port})
    with pytest.raises(ServerError) as caught:
        refuse_taken_ports("192.0.2.1", {"http": port})
    assert str(caught.value) == (
        "triton.address: 192.0.2.1 is no address of this machine\n"
        "  want: 127.0.0.1 for programs of this machine, 0.0.0.0 for all"
    )


def test_what_was_started_does_not_outlive_an_interruption(tmp_path: Path) -> None:
    """The stand-in for a server writes its process id and sleeps."""
    script = f"echo $$ > {tmp_path}/pid; exec sleep 600"
    code = (
        "import _thread, threading, sys; from reid.deploy.triton_server import serve; "
        "threading.Timer(1, _thread.interrupt_main).start(); "
        "serve(['sh', '-c', sys.argv[1]], address='127.0.0.1', http_port=1)"
    )
    root = Path(__file__).resolve().parents[2]
    environment = os.environ | {"PYTHONPATH": str(root)}
    subprocess.run([sys.executable, "-c", code, script], env=environment, check=True, timeout=60)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
