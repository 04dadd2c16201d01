"""A Triton server that answers anything at all: an error that names the server, soon, and never a wrong embedding."""

import itertools
import json
import math
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.contract import Contract
from reid.deploy.triton_answers import Output, config_of, embeddings_of, names_of, parsed
from reid.deploy.triton_client import TritonModel
from reid.deploy.triton_connection import Server
from reid.deploy.triton_contract import served_model
from reid.errors import ServerError
from tests.hostile_server import Answer, HostileServer, as_json, dripping, http

CONTRACT = Contract(4, 2, 3, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), 2)
MODEL = "m"
WANT_CONFIG = "\n  want:  a model's configuration, as Triton gives it"
IMAGES = np.zeros((2, 3, 4, 2), np.float32)


def config(contract: str = "", **changes: Any) -> dict[str, Any]:
    return {
        "max_batch_size": 4,
        "input": [{"name": "input", "data_type": "TYPE_FP32", "dims": [3, 4, 2]}],
        "output": [{"name": "fc_pred", "data_type": "TYPE_FP32", "dims": [2]}],
        "parameters": {"reid.contract": {"string_value": contract or CONTRACT.to_json()}},
    } | changes


def contract(**changes: Any) -> str:
    return json.dumps(json.loads(CONTRACT.to_json()) | changes)


def output(numbers: Any = None, **changes: Any) -> bytes:
    """An answer to an inference of two images, in binary form."""
    data = np.array([[1, 2], [3, 4]] if numbers is None else numbers, "<f4").tobytes()
    about = {"name": "fc_pred", "datatype": "FP32", "shape": [2, 2], "parameters": {"binary_data_size": len(data)}}
    head = json.dumps({"outputs": [about | changes]}).encode()
    return http(head + data, Inference_Header_Content_Length=len(head))


@contextmanager
def triton(configured: Answer | None = None, inferred: Answer = b"", index: Answer = b"") -> Iterator[HostileServer]:
    configured = as_json(config()) if configured is None else configured

    def answer(_: str, path: str) -> Answer:
        return configured if path.endswith("/config") else inferred if path.endswith("/infer") else index

    with HostileServer(answer) as server:
        yield server


def model_of(server: HostileServer, **changes: Any) -> TritonModel:
    settings = {"batch_size": 2, "in_flight": 1, "patience_s": 1.0} | changes
    return TritonModel(Server(server.address, "http", MODEL, ""), **settings)


def said(server: HostileServer, *, patience_s: float = 0.3) -> str:
    """The error of a first contact, or of the request after it, without the address."""
    with (
        pytest.raises(ServerError) as caught,
        TritonModel(
            Server(server.address, "http", MODEL, ""), batch_size=2, in_flight=1, patience_s=patience_s
        ) as model,
    ):
        model(IMAGES)
    assert str(caught.value).startswith(server.address)
    return str(caught.value).replace(server.address, "HOST")


def test_a_whole_answer_is_taken_in_binary_form_and_as_json() -> None:
    as_list = {"name": "fc_pred", "datatype": "FP32", "shape": [2, 2], "data": [1, 2.0, 3, 4]}
    for answer in (output(), as_json({"outputs": [{"name": "other", "datatype": "BYTES"}, as_list]})):
        with triton(inferred=answer) as server, model_of(server) as model:
            assert model(IMAGES).tolist() == [[1, 2], [3, 4]]
            assert set(server.asked) == {"GET /v2/models/m/config", "POST /v2/models/m/infer"}


CONFIGURATIONS: dict[str, tuple[Answer, str]] = {
    "a list": (
        as_json([]),
        f"HOST: m: the model's configuration: should be an object\n  found: a list{WANT_CONFIG}",
    ),
    "null": (
        as_json(None),
        f"HOST: m: the model's configuration: should be an object\n  found: None{WANT_CONFIG}",
    ),
    "a text for a number": (
        as_json(config(max_batch_size="many")),
        f"HOST: m: the model's configuration: max_batch_size: should be a valid integer\n  found: 'many'{WANT_CONFIG}",
    ),
    "null for parameters": (
        as_json(config(parameters=None)),
        f"HOST: m: the model's configuration: parameters: should be an object\n  found: None{WANT_CONFIG}",
    ),
    "a parameter that is a number": (
        as_json(config(parameters={"reid.contract": {"string_value": 5}})),
        "HOST: m: the model's configuration: parameters.reid.contract.string_value: should be a valid string\n"
        f"  found: 5{WANT_CONFIG}",
    ),
    "ports that are no ports": (
        as_json(config(input=["\x1b[2Jx"])),
        f"HOST: m: the model's configuration: input.0: should be an object\n  found: '\\x1b[2Jx'{WANT_CONFIG}",
    ),
    "a size that is too large": (
        as_json(config(max_batch_size=10**30)),
        "HOST: m: the model's configuration: max_batch_size: should be less than or equal to 2147483648\n"
        f"  found: {10**30}{WANT_CONFIG}",
    ),
    "nested 10,000 deep": (
        http(b"[" * 10_000),
        f"HOST: m: the answer is not JSON (nested too deeply)\n  found: {'[' * 120}…",
    ),
    "a page of HTML": (
        http(b"<html>\x1b[31m"),
        "HOST: m: the answer is not JSON (Expecting value: line 1 column 1 (char 0))\n  found: <html> [31m",
    ),
    "not UTF-8": (
        http(b'{"a": "\xff"}'),
        "HOST: m: the answer is not JSON ('utf-8' codec can't decode byte 0xff in position 7: invalid start byte)\n"
        '  found: {"a": "\N{REPLACEMENT CHARACTER}"}',
    ),
    "1 GB that is announced": (
        http(b"{", Content_Length=10**9),
        "HOST: the answer is too large\n  found: 1,000,000,000 bytes\n  want:  at most 16,777,216 bytes",
    ),
    "a contract of a billion values": (
        as_json(config(contract(embedding=10**9))),
        "HOST: m: preprocessing contract: height 4, width 2, embedding 1000000000\n"
        "  want: at most 16,777,216 pixels and an embedding of at most 1,048,576 numbers",
    ),
    "a contract of ten billion pixels": (
        as_json(config(contract(height=10**5, width=10**5))),
        "HOST: m: preprocessing contract: height 100000, width 100000, embedding 2\n"
        "  want: at most 16,777,216 pixels and an embedding of at most 1,048,576 numbers",
    ),
    "a contract of two million pixels": (
        as_json(config(contract(height=2000, width=1000))),
        "HOST: m: images of 3 x 2000 x 1000 and embeddings of 2 values\n"
        "  want: images of at most 4,194,304 values, embeddings of at most 65,536",
    ),
    "std 0": (
        as_json(config(contract(std=[0.25, 0, 0.25]))),
        "HOST: m: preprocessing contract: mean (0.5, 0.5, 0.5), std (0.25, 0, 0.25)\n"
        "  want: numbers up to 1e+06, each std from 1e-06; pixels are scaled to 0..1",
    ),
    "mean null": (
        as_json(config(contract(mean=None))),
        "HOST: m: preprocessing contract: mean None\n  want: a list of numbers",
    ),
    "a contract 10,000 deep": (
        as_json(config("[" * 10_000)),
        f"HOST: m: preprocessing contract: not JSON (nested too deeply); found: {'[' * 80!r}",
    ),
    "an input of whole numbers": (
        as_json(config(input=[{"name": "input", "data_type": "TYPE_INT32", "dims": [3, 4, 2]}])),
        "HOST: m: inputs and outputs are input TYPE_INT32 (3, 4, 2), fc_pred TYPE_FP32 (2)\n"
        "  want: input TYPE_FP32 (3, 4, 2), fc_pred TYPE_FP32 (2), as its contract says",
    ),
    "a digest that is none": (
        as_json(
            config(
                parameters={
                    "reid.contract": {"string_value": CONTRACT.to_json()},
                    "reid.model": {"string_value": "x"},
                }
            )
        ),
        "HOST: m: the parameter reid.model is 'x'\n  want: a SHA-256, 64 digits",
    ),
    "a refusal in odd words": (
        as_json({"error": ["x"]}, status="400 Bad Request"),
        'HOST: the server refuses the request\n  found: [400] {"error": ["x"]}',
    ),
    "a login": (http(b"", status="401 Unauthorized"), "HOST: the server refuses the request\n  found: [401]"),
    "a redirect": (
        http(b"", status="302 Found", Location="http://127.0.0.1:1/"),
        "HOST: the server refuses the request\n  found: [302]",
    ),
    "no HTTP": (
        b"SSH-2.0-OpenSSH\r\n\r\n",
        "HOST: the answer is not HTTP\n  found: SSH-2.0-OpenSSH\n"
        "  want:  Triton's HTTP port, by default 8000; or gRPC (-i grpc) with its port, 8001",
    ),
}


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_a_configuration_that_is_none_is_an_error_with_what_was_found_and_wanted(name: str) -> None:
    answer, wanted = CONFIGURATIONS[name]
    with triton(answer) as server:
        assert said(server) == wanted


WANT_OUTPUT = "\n  want: fc_pred, FP32, (2, 2) (images, embedding), as its contract says"
OUTPUTS: dict[str, tuple[Answer, str]] = {
    "a list": (as_json([]), f"HOST: m answers without the output fc_pred{WANT_OUTPUT}"),
    "another output": (output(name="other"), f"HOST: m answers without the output fc_pred{WANT_OUTPUT}"),
    "whole numbers": (
        output(datatype="INT32"),
        f"HOST: m answers with an output of type INT32 and shape (2, 2){WANT_OUTPUT}",
    ),
    "another batch": (
        output(shape=[1, 2]),
        f"HOST: m answers with an output of type FP32 and shape (1, 2){WANT_OUTPUT}",
    ),
    "no shape": (
        output(shape=None),
        f"HOST: m answers with an output of type FP32 and shape (None){WANT_OUTPUT}",
    ),
    "fewer numbers": (
        output([1, 2, 3]),
        "HOST: m answers with an output of 12 bytes\n  want: 4 numbers in 16 bytes",
    ),
    "more bytes than there are": (
        output(parameters={"binary_data_size": 10**9}),
        "HOST: m: the answer's binary_data_size is 1000000000\n  want: a whole number up to 16, the bytes that follow",
    ),
    "not a number": (
        output([[1, 2], [math.nan, 4]]),
        "HOST: m answers with embeddings that are not finite\n"
        "  found: 1 of 2, the first is that of image 1 of the request\n  want: finite numbers",
    ),
    "texts": (
        as_json({"outputs": [{"name": "fc_pred", "datatype": "FP32", "shape": [2, 2], "data": ["1"] * 4}]}),
        "HOST: m answers with an output of 4 values\n  want: 4 numbers in 16 bytes",
    ),
    "infinity": (
        as_json({"outputs": [{"name": "fc_pred", "datatype": "FP32", "shape": [2, 2], "data": [1, 2, 3, 1e40]}]}),
        "HOST: m answers with embeddings that are not finite\n"
        "  found: 1 of 2, the first is that of image 1 of the request\n  want: finite numbers",
    ),
    "a length that is none": (
        http(b"{}", Inference_Header_Content_Length="-5"),
        "HOST: m: the answer's Inference-Header-Content-Length is '-5'\n  want: a whole number",
    ),
    "a length beyond the end": (
        http(b"{}", Inference_Header_Content_Length="99"),
        "HOST: m: the answer has 2 bytes\n  want: 99 at least, as Inference-Header-Content-Length says",
    ),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_an_output_that_is_not_what_was_asked_for_is_no_embedding(name: str) -> None:
    answer, wanted = OUTPUTS[name]
    with triton(inferred=answer) as server:
        assert said(server) == wanted


def without_end(stop: threading.Event) -> Iterator[bytes]:
    yield b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    while not stop.is_set():
        yield b"100000\r\n" + b" " * 2**20 + b"\r\n"


def test_a_body_without_an_end_is_read_up_to_the_limit() -> None:
    stop = threading.Event()
    with triton(without_end(stop)) as server:
        assert said(server, patience_s=20.0) == (
            "HOST: the answer is too large\n  found: more than 16,777,216 bytes\n  want:  at most 16,777,216 bytes"
        )
    stop.set()


@pytest.mark.parametrize("what", ["head", "body", "nothing"])
def test_a_byte_at_a_time_ends_with_the_patience(what: str) -> None:
    stop = threading.Event()
    answers: dict[str, Iterator[bytes]] = {
        "head": dripping(http(b""), stop),
        "body": itertools.chain([http(b"", Content_Length=9999)], dripping(b"", stop)),
        "nothing": dripping(b"", stop, pause_s=60.0),
    }
    with triton(answers[what]) as server:
        started = time.monotonic()
        text = said(server, patience_s=0.4)
        assert time.monotonic() - started < 1.5
        stop.set()
    assert text.startswith("HOST: no answer for 0.4 s, by http\n  found: ")


def test_a_model_with_other_weights_is_not_mixed_with_the_first() -> None:
    digests = ["a" * 64, "a" * 64, "b" * 64]

    def answer(_: str, path: str) -> Answer:
        if path.endswith("/infer"):
            return output()
        parameters = {
            "reid.contract": {"string_value": CONTRACT.to_json()},
            "reid.model": {"string_value": digests[min(len(server.asked), len(digests)) - 1]},
        }
        return as_json(config(parameters=parameters))

    with HostileServer(answer) as server, model_of(server) as model:
        assert model.digest == "a" * 64
        model.check_unchanged()
        with pytest.raises(ServerError) as caught:
            model.check_unchanged()
    assert str(caught.value) == (
        f"{server.address}: m has changed between two requests: another model file\n"
        f"  found: SHA-256 {'b' * 64}\n  want:  SHA-256 {'a' * 64}; nothing of the two is mixed"
    )


def test_a_list_of_models_that_is_none_is_said() -> None:
    with triton(http(b"", status="404 Not Found"), index=as_json({"models": 5})) as server:
        assert said(server) == (
            "HOST: no model m, version the latest\n  found: a server that does not list its models (HOST: the list of "
            "models: should be a valid list   found: 5   want:  entries with a name, as Triton gives the…)"
        )


def test_an_interrupt_ends_requests_that_are_under_way() -> None:
    stop, errors = threading.Event(), []

    def answer(_: str, path: str) -> Answer:
        return dripping(b"", stop) if path.endswith("/infer") else as_json(config())

    with HostileServer(answer) as server:
        model = model_of(server, in_flight=4, patience_s=60.0)

        def ask() -> None:
            with pytest.raises(ServerError) as caught:
                model(np.zeros((8, 3, 4, 2), np.float32))
            errors.append(str(caught.value))

        asking = threading.Thread(target=ask)
        asking.start()
        while not any(line.startswith("POST") for line in server.asked):
            time.sleep(0.01)
        started = time.monotonic()
        model.close()
        assert time.monotonic() - started < 1
        stop.set()
        asking.join(5)
    assert errors[0].startswith(f"{server.address}: no answer for 60 s, by http\n  found: the connection was closed\n")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["name", "dims", "data_type", "input", "output", "parameters", "models"]), inner
        )
    ),
    max_leaves=12,
)
FIELDS = st.dictionaries(st.sampled_from([*config(), "reid.contract"]), JSON, min_size=1, max_size=2)
OUTPUT_FIELDS = st.tuples(JSON, JSON, JSON | st.binary(max_size=20))


@settings(max_examples=40, deadline=None)
@given(FIELDS, JSON, OUTPUT_FIELDS, st.binary(max_size=30))
def test_any_answer_is_either_right_or_a_server_error(
    changes: dict[str, Any], anything: Any, fields: tuple[Any, Any, Any], body: bytes
) -> None:
    for found in (config() | changes, anything):
        with suppress(ServerError):
            model = served_model(config_of(found, "here"), given=None, where="here", batch_size=4)
            assert model.contract == CONTRACT
    with suppress(ServerError):
        names_of(anything, "here")
    with suppress(ServerError):
        parsed(body, "here")
    for kind, shape in (fields[:2], ("FP32", [2, 2])):
        with suppress(ServerError):
            vectors = embeddings_of(Output(kind, shape, fields[2]), images=2, width=2, where="here")
            assert vectors.shape == (2, 2)
            assert np.isfinite(vectors).all()
