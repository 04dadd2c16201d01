"""The client against a real Triton server, whose Python backend runs the repository that `reid triton` writes."""

import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tritonclient.utils import InferenceServerException

from reid.contract import Contract
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.onnx_ends import PixelPort, with_preprocessing
from reid.deploy.triton import write_repository
from reid.deploy.triton_client import TritonModel
from reid.deploy.triton_connection import Server, ServerAway
from reid.deploy.triton_contract import GivenContract, contract_of_file
from reid.deploy.triton_grpc import _explained
from reid.embeddings import OfPixels
from reid.errors import MissingDependency, ServerError, SpecError
from reid.model.embedder import Embedder
from tests.tls_relay import certificate, tls_before
from tests.triton_server import TritonServer, free_ports

NAME = "re_identification_tao"
BOTH = pytest.mark.parametrize("protocol", ["http", "grpc"])
ALL = pytest.mark.parametrize("protocol", ["http", "grpc", "stream"])
Exported = tuple[Path, Embedder, Contract]
NO_CONTRACT = (
    "has no preprocessing contract, which says how to prepare an image for it\n"
    "  want: the parameter 'reid.contract' in its configuration, which reid triton writes;\n"
    "        for a model that another program laid out: reid client --contract FILE (a checkpoint, an ONNX, a "
    "build.json\n        or the JSON of reid.contract), or --mean and --std,\n"
    "        e.g. --mean 0.485 0.456 0.406 --std 0.226 0.226 0.226; for start_client triton.contract=FILE"
)


@pytest.fixture(scope="module")
def server(plain: Exported, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """Serves a small network; not to be stopped."""
    folder = tmp_path_factory.mktemp("triton")
    write_repository(folder / "models", plain[0], backend="python", name=NAME, max_batch_size=16)
    with_server = TritonServer(folder / "models", folder / "log")
    try:
        yield with_server.start()
    finally:
        with_server.kill()


@pytest.fixture
def own_server(plain: Exported, tmp_path: Path) -> Iterator[TritonServer]:
    """The same, of one test alone; not started."""
    write_repository(tmp_path / "models", plain[0], backend="python", name=NAME, max_batch_size=16)
    server = TritonServer(tmp_path / "models", tmp_path / "log")
    try:
        yield server
    finally:
        server.kill()


def model_of(server: TritonServer, protocol: str, **changes: Any) -> TritonModel:
    name = changes.pop("name", NAME)
    settings = {"batch_size": 16, "in_flight": 1, "patience_s": 30.0} | changes
    spoken, streaming = ("grpc", True) if protocol == "stream" else (protocol, False)
    return TritonModel(Server(server.url(spoken), spoken, name, settings.pop("version", ""), streaming), **settings)


def noise(count: int) -> NDArray[np.float32]:
    return np.random.default_rng(count).standard_normal((count, 3, 64, 32), np.float32)


def expected(plain: Exported, images: NDArray[np.float32]) -> Any:
    """What the same ONNX gives in this process; float32 sums differ with the batch."""
    return pytest.approx(OnnxModel(plain[0], threads=1)(images), abs=1e-5)


def refusal(server: TritonServer, protocol: str, **changes: Any) -> str:
    with pytest.raises(ServerError) as caught:
        model_of(server, protocol, **changes)
    return str(caught.value)


@pytest.mark.slow
@BOTH
def test_the_contract_comes_from_the_server(server: TritonServer, plain: Exported, protocol: str) -> None:
    with model_of(server, protocol) as model:
        assert model.contract == plain[2]


@pytest.mark.slow
@ALL
@pytest.mark.parametrize(("batch_size", "in_flight"), [(1, 1), (7, 1), (16, 4), (7, 20)])
def test_embeddings_are_those_of_the_onnx_in_order_the_last_batch_too(
    server: TritonServer, plain: Exported, protocol: str, batch_size: int, in_flight: int
) -> None:
    images = noise(45)
    with model_of(server, protocol, batch_size=batch_size, in_flight=in_flight) as model:
        assert model(images) == expected(plain, images)
        assert model(images[:0]).shape == (0, 16)


@pytest.mark.slow
def test_a_model_that_prepares_images_itself_gets_pixels(plain: Exported, tmp_path: Path) -> None:
    core, contract = read_onnx(plain[0])
    model = with_preprocessing(core, contract, PixelPort(channel_order="BGR"), mirror=True, unit_length=True)
    (tmp_path / "inside.onnx").write_bytes(model.SerializeToString())
    write_repository(tmp_path / "models", tmp_path / "inside.onnx", backend="python", name=NAME, max_batch_size=16)
    pixels = np.random.default_rng(0).integers(0, 256, (20, 90, 40, 3), np.uint8)
    server = TritonServer(tmp_path / "models", tmp_path / "log")
    try:
        server.start()
        for protocol in ("http", "grpc"):
            with model_of(server, protocol) as served:
                network = served.network
                assert isinstance(network, OfPixels)
                found = network.start(pixels)()
                expected_here = OnnxModel(tmp_path / "inside.onnx", threads=1).of_pixels(pixels)
                assert found == pytest.approx(expected_here, abs=1e-5)
    finally:
        server.kill()


@pytest.mark.slow
def test_several_clients_at_once_get_their_own_answers(server: TritonServer, plain: Exported) -> None:
    def client(number: int) -> NDArray[np.float32]:
        with model_of(server, ("http", "grpc")[number % 2], batch_size=1 + number, in_flight=3) as model:
            return model(noise(50 + number))

    with ThreadPoolExecutor(6) as pool:
        for number, found in enumerate(pool.map(client, range(6))):
            assert found == expected(plain, noise(50 + number))


@pytest.mark.slow
@BOTH
def test_a_model_that_the_server_does_not_have_is_named_with_those_it_has(server: TritonServer, protocol: str) -> None:
    url = server.url(protocol)
    assert refusal(server, protocol, name="reid") == (
        f"{url}: no model reid, version the latest\n  found: {NAME} version 1"
    )
    assert refusal(server, protocol, version="7") == f"{url}: no model {NAME}, version 7\n  found: {NAME} version 1"


@pytest.mark.slow
@ALL
def test_images_of_another_shape_are_refused_in_the_servers_words(server: TritonServer, protocol: str) -> None:
    with model_of(server, protocol) as model, pytest.raises(ServerError) as caught:
        model(noise(2)[:, :, :32])
    url = server.grpc if protocol == "stream" else server.url(protocol)
    assert str(caught.value).startswith(f"{url}: the server refuses the request\n  found: ")
    assert "unexpected shape for input 'input'" in str(caught.value)


@pytest.mark.slow
@BOTH
def test_a_batch_larger_than_the_server_takes_is_refused_before_anything_is_sent(
    server: TritonServer, protocol: str
) -> None:
    assert refusal(server, protocol, batch_size=17) == (
        f"{server.url(protocol)}: {NAME} takes batches of at most 16 images\n  found: 17 (-b, triton.max_batch_size)\n"
        "  want:  16 or less"
    )


@pytest.mark.slow
def test_the_wrong_one_of_the_servers_ports_is_told(server: TritonServer) -> None:
    settings: dict[str, Any] = {"batch_size": 1, "in_flight": 1, "patience_s": 1.0}
    with pytest.raises(ServerError) as caught:
        TritonModel(Server(server.grpc, "https", NAME, ""), **settings)
    assert str(caught.value).startswith(f"{server.grpc}: the answer is not HTTP\n")
    with pytest.raises(ServerError) as caught:
        TritonModel(Server(server.http, "grpc", NAME, ""), **settings)
    assert str(caught.value).startswith(f"{server.http}: no answer for 1 s, by grpc\n")


@pytest.mark.slow
def test_tls_is_spoken_where_the_url_says_so_and_only_with_a_certificate_that_is_trusted(
    server: TritonServer, plain: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pem, key = certificate(tmp_path)
    settings: dict[str, Any] = {"batch_size": 4, "in_flight": 2, "patience_s": 30.0}
    with tls_before(server.http_port, certificate=pem, key=key) as port:
        secure = Server(f"https://localhost:{port}", "http", NAME, "1")
        with pytest.raises(ServerError) as caught:
            TritonModel(secure, **settings)
        text = str(caught.value)
        assert text.startswith(
            f"https://localhost:{port}: no TLS connection\n  found: [SSL: CERTIFICATE_VERIFY_FAILED]"
        )
        assert text.endswith(
            "\n  want:  a server that speaks TLS (Triton itself does not by HTTP), with a certificate that this "
            "machine trusts;\n         SSL_CERT_FILE may name the authority's"
        )
        monkeypatch.setenv("SSL_CERT_FILE", str(pem))
        with TritonModel(secure, **settings) as model:
            assert model(noise(9)) == expected(plain, noise(9))


@pytest.mark.slow
@ALL
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_is_killed_and_started_again_in_the_middle_costs_time_only(
    own_server: TritonServer, plain: Exported, protocol: str, how: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    images, found = noise(3000), []
    own_server.start()
    caplog.set_level(logging.WARNING, "reid")
    with model_of(own_server, protocol, batch_size=1, in_flight=4) as model:
        asking = threading.Thread(target=lambda: found.append(model(images)))
        asking.start()
        time.sleep(0.2)
        assert asking.is_alive(), "killed before it is done"
        own_server.stop(how)
        time.sleep(0.5)
        own_server.start()
        asking.join(60)
    assert found[0] == expected(plain, images)
    if how == signal.SIGKILL:  # asked to stop, it may have answered everything before
        assert any("trying again in 0.25 s" in message for message in caplog.messages)


@pytest.mark.slow
@BOTH
def test_a_server_that_comes_back_with_another_contract_is_refused(
    own_server: TritonServer, flipped: Exported, protocol: str
) -> None:
    own_server.start()
    with model_of(own_server, protocol) as model:
        assert model(noise(3)).shape == (3, 16)
        own_server.kill()
        write_repository(own_server.repository, flipped[0], backend="python", name=NAME, max_batch_size=16)
        own_server.start()
        with pytest.raises(ServerError) as caught:
            model(noise(3))
    assert str(caught.value).startswith(
        f"{own_server.url(protocol)}: {NAME} has changed between two requests: another contract\n"
    )


@pytest.mark.slow
def test_a_model_whose_onnx_has_another_contract_than_its_config_is_not_served(
    own_server: TritonServer, flipped: Exported
) -> None:
    (own_server.repository / NAME / "1" / "model.onnx").write_bytes(flipped[0].read_bytes())
    with pytest.raises(pytest.fail.Exception):
        own_server.start()
    assert "its preprocessing contract is not the one of config.pbtxt" in own_server.log.read_text()


@pytest.mark.slow
@BOTH
@pytest.mark.parametrize("spoiled", ["contract", "dims", "order"])
def test_a_model_without_contract_or_against_it_is_refused(
    own_server: TritonServer, plain: Exported, protocol: str, spoiled: str
) -> None:
    """It is still served: model.py is one that looks at nothing."""
    config = own_server.repository / NAME / "config.pbtxt"
    text = config.read_text()
    text = {
        "contract": text[: text.index("parameters")],
        "dims": text.replace("3, 64, 32", "3, 32, 64"),
        "order": text.replace("RGB", "BGR"),
    }[spoiled]
    config.write_text(text)
    (own_server.repository / NAME / "1" / "model.py").write_text("class TritonPythonModel:\n    execute = None\n")
    own_server.start()
    url = own_server.url(protocol)
    assert (
        refusal(own_server, protocol)
        == {
            "contract": f"{url}: {NAME} {NO_CONTRACT}",
            "dims": f"{url}: {NAME}: inputs and outputs are input TYPE_FP32 (3, 32, 64), fc_pred TYPE_FP32 (16)\n"
            "  want: input TYPE_FP32 (3, 64, 32), fc_pred TYPE_FP32 (16), as its contract says",
            "order": f"{url}: {NAME}: preprocessing contract: channel_order 'BGR' of 3 channels\n"
            "  want: 'RGB'; nothing else can be done to an image here",
        }[spoiled]
    )


@pytest.mark.slow
@BOTH
def test_a_model_laid_out_by_tao_is_served_with_the_contract_that_is_given(
    own_server: TritonServer, plain: Exported, protocol: str
) -> None:
    config, served = own_server.repository / NAME / "config.pbtxt", own_server.repository / NAME / "1" / "model.py"
    text = config.read_text()
    config.write_text(text[: text.index("parameters")])
    program = served.read_text()
    served.write_text(program[: program.index("        promised")] + program[program.index("    def execute") :])
    own_server.start()
    assert refusal(own_server, protocol) == f"{own_server.url(protocol)}: {NAME} {NO_CONTRACT}"
    values = {"mean": plain[2].mean, "std": plain[2].std}
    with model_of(own_server, protocol, given=GivenContract(values, "--mean --std")) as model:
        assert model.contract == plain[2]
        assert model(noise(5)) == expected(plain, noise(5))
    with model_of(own_server, protocol, given=contract_of_file(plain[0], source="--contract")) as model:
        assert model.contract == plain[2]


@pytest.mark.slow
def test_an_output_of_another_shape_is_an_error_and_no_embedding(own_server: TritonServer) -> None:
    """As the Python backend of this server gives with numpy 2."""
    served = own_server.repository / NAME / "1" / "model.py"
    served.write_text(served.read_text().replace("np.ascontiguousarray(part)", "part[:0]"))
    own_server.start()
    with model_of(own_server, "http") as model, pytest.raises(ServerError) as caught:
        model(noise(3))
    assert str(caught.value) == (
        f"{own_server.http}: {NAME} answers with an output of type FP32 and shape (0, 16)\n"
        "  want: fc_pred, FP32, (3, 16) (images, embedding), as its contract says"
    )


@BOTH
def test_a_server_that_is_not_there_is_waited_for_as_long_as_told(protocol: str) -> None:
    (port,) = free_ports(1)
    started = time.monotonic()
    with pytest.raises(ServerError) as caught:
        TritonModel(Server(f"localhost:{port}", protocol, NAME, ""), batch_size=1, in_flight=1, patience_s=1.0)
    assert 0.5 < time.monotonic() - started < 5
    text = str(caught.value)
    assert text.startswith(f"localhost:{port}: no answer for 1 s, by {protocol}\n  found: ")
    assert text.endswith("\n  want:  a Triton server; its port is by default 8000 for HTTP and 8001 for gRPC")


@pytest.mark.parametrize(
    ("url", "protocol", "address", "tls", "is_grpc"),
    [
        ("localhost:8000", "https", "localhost:8000", False, False),
        ("http://localhost:8000", "http", "localhost:8000", False, False),
        ("https://triton.example/reid", "http", "triton.example/reid", True, False),
        ("localhost:8001", "gRPC", "localhost:8001", False, True),
        ("grpcs://[::1]:8001", "grpc", "[::1]:8001", True, True),
    ],
)
def test_the_protocol_decides_what_is_spoken_and_the_url_whether_by_tls(
    url: str, protocol: str, address: str, tls: bool, is_grpc: bool
) -> None:
    server = Server(url, protocol, NAME, "")
    assert (server.address, server.tls, server.is_grpc) == (address, tls, is_grpc)


@pytest.mark.parametrize(
    ("url", "is_ours"),
    [
        ("localhost:8001", True), ("grpc://LOCALHOST", True), ("127.3.4.5:8001", True), ("grpcs://[::1]:8001", True),
        ("triton.example:8001", False), ("localhost.example:8001", False), ("10.0.0.1:8001", False),
    ],
)  # fmt: skip
def test_an_address_of_this_machine_is_known(url: str, is_ours: bool) -> None:
    assert Server(url, "grpc", NAME, "").is_on_this_machine == is_ours


@pytest.mark.parametrize("url", ["", "ftp://localhost:8000", "localhost:port", "two words:8000"])
def test_an_address_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(SpecError) as caught:
        TritonModel(Server(url, "http", NAME, ""), batch_size=1, in_flight=1, patience_s=1.0)
    assert str(caught.value) == (f"{url}: not the address of a server; want host:port, or https://host:port for TLS")


def test_a_stream_that_was_lost_between_two_requests_is_a_server_that_is_away() -> None:
    from tritonclient.grpc._infer_stream import _InferStream

    stream = _InferStream(None, False)
    stream._active = False  # as its reading thread leaves it when the connection ends
    with pytest.raises(InferenceServerException) as caught:
        stream._enqueue_request(None)
    assert isinstance(_explained(Server("localhost:1", "grpc", NAME, ""), caught.value), ServerAway)


def test_a_missing_tritonclient_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tritonclient", None)
    monkeypatch.delitem(sys.modules, "tritonclient.grpc", raising=False)
    with pytest.raises(
        MissingDependency, match=r"which gRPC needs, comes with pip install -e '\.\[triton\]' in the repository's root$"
    ):
        TritonModel(Server("localhost:1", "grpc", NAME, ""), batch_size=1, in_flight=1, patience_s=1.0)
