"""A real Triton that is stopped (SIGSTOP) or comes back with other weights, and a client that is interrupted."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from reid.contract import Contract
from reid.deploy.onnx import read_onnx
from reid.deploy.triton import write_repository
from reid.deploy.triton_client import TritonModel
from reid.deploy.triton_connection import Server
from reid.errors import ServerError
from reid.model.embedder import Embedder
from tests.small_market import write_market
from tests.triton_server import TritonServer

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
NAME = "re_identification_tao"
ALL = pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
Exported = tuple[Path, Embedder, Contract]


@pytest.fixture
def server(plain: Exported, tmp_path: Path) -> Iterator[TritonServer]:
    write_repository(tmp_path / "models", plain[0], backend="python", name=NAME, max_batch_size=16)
    server = TritonServer(tmp_path / "models", tmp_path / "log")
    try:
        yield server.start()
    finally:
        server.kill()


def model_of(server: TritonServer, protocol: str, **changes: Any) -> TritonModel:
    settings = {"batch_size": 1, "in_flight": 4, "patience_s": 2.0} | changes
    spoken, streaming = ("grpc", True) if protocol == "stream" else (protocol, False)
    return TritonModel(Server(server.url(spoken), spoken, NAME, "", streaming), **settings)


@ALL
def test_a_stopped_server_is_given_up_when_the_patience_ends(server: TritonServer, protocol: str) -> None:
    with model_of(server, protocol) as model:
        assert model(np.zeros((4, 3, 64, 32), np.float32)).shape == (4, 16)
        server.send(signal.SIGSTOP)
        for ask in (
            lambda: model._infer(np.zeros((1, 3, 64, 32), np.float32)),
            lambda: model(np.zeros((9, 3, 64, 32), np.float32)),
            lambda: model_of(server, protocol),
        ):
            started = time.monotonic()
            with pytest.raises(ServerError) as caught:
                ask()
            assert 1.5 < time.monotonic() - started < 3.5
            assert ": no answer for 2 s, by " in str(caught.value)
    server.send(signal.SIGCONT)


@ALL
def test_requests_to_a_stopped_server_are_given_up_at_once_if_the_client_is_closed(
    server: TritonServer, protocol: str
) -> None:
    model = model_of(server, protocol, patience_s=60.0)
    errors: list[BaseException] = []

    def ask() -> None:
        try:
            model(np.zeros((9, 3, 64, 32), np.float32))
        except ServerError as error:
            errors.append(error)

    model(np.zeros((4, 3, 64, 32), np.float32))
    server.send(signal.SIGSTOP)
    asking = threading.Thread(target=ask)
    asking.start()
    time.sleep(0.3)
    started = time.monotonic()
    model.close()
    asking.join(10)
    assert time.monotonic() - started < 2
    assert errors
    server.send(signal.SIGCONT)


@pytest.mark.parametrize("protocol", ["grpc"])
def test_an_interrupt_of_the_command_ends_it_at_once(server: TritonServer, tmp_path: Path, protocol: str) -> None:
    market = write_market(tmp_path / "market")
    command = [
        *(sys.executable, "-m", "reid", "client", str(market / "query"), "-m", NAME, "--async", "-b", "1", "-v"),
        *("-i", protocol, "-u", server.url(protocol), "--output_path", str(tmp_path / "output")),
    ]
    server.send(signal.SIGSTOP)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    client = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    time.sleep(6)  # it has started and waits
    assert client.poll() is None
    started = time.monotonic()
    client.send_signal(signal.SIGINT)
    said = client.communicate(timeout=30)[0].decode()
    assert time.monotonic() - started < 2
    assert client.returncode == 130, said
    assert "Traceback" not in said
    server.send(signal.SIGCONT)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_server_that_comes_back_with_other_weights_is_refused(
    server: TritonServer, plain: Exported, tmp_path: Path, protocol: str
) -> None:
    network, _ = read_onnx(plain[0])
    network.doc_string = "other"
    (tmp_path / "other.onnx").write_bytes(network.SerializeToString())
    with model_of(server, protocol, patience_s=30.0) as model:
        model(np.zeros((1, 3, 64, 32), np.float32))
        server.kill()
        write_repository(server.repository, tmp_path / "other.onnx", backend="python", name=NAME, max_batch_size=16)
        server.start()
        with pytest.raises(ServerError) as caught:
            model.check_unchanged()
    assert str(caught.value).startswith(
        f"{server.url(protocol)}: {NAME} has changed between two requests: another model file\n  found: SHA-256 "
    )
