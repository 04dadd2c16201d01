"""The figures of a run in ML Metadata, where Kubeflow Pipelines keeps them: its API has none, also of a cached stage.

KFP's web server passes gRPC-Web calls on to ML Metadata, as its own pages need them. Two calls are enough, so that the
few fields of their messages are read here, by number, instead of with a library. The numbers are those of ML Metadata's
metadata_store.proto and metadata_store_service.proto.
"""

import struct
from collections.abc import Iterator
from typing import Any

from pipelines.cluster.api import Cluster

SERVICE = "ml_metadata.MetadataStoreService"
KIND = "application/grpc-web+proto"
RUN_TYPE, METRICS_TYPE = "system.PipelineRun", b"system.Metrics"
CONTEXT = ARTIFACTS = 1
"""Fields of the two answers: the one context, the artifacts."""
ID, ARTIFACT_CUSTOM, ARTIFACT_TYPE = 1, 5, 8
"""Fields of a context and of an artifact."""
KEY, VALUE, DOUBLE = 1, 2, 2
"""Fields of an entry of a map, and of a value."""
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
"""Kinds of a field in protobuf's encoding."""


def figures_in_metadata(cluster: Cluster, pages: str, run_id: str) -> dict[str, float]:
    """The metrics of the run's evaluation, those with an mAP; none if the web server at `pages` does not give them."""
    try:
        request = _text(1, RUN_TYPE) + _text(2, run_id)
        context = dict(_fields(_first(_call(cluster, pages, "GetContextByTypeAndName", request), CONTEXT)))
        answer = _call(cluster, pages, "GetArtifactsByContext", _varint(1 << 3) + _varint(context[ID]))
        for number, artifact in _fields(answer):
            if number == ARTIFACTS and _first(artifact, ARTIFACT_TYPE) == METRICS_TYPE:
                figures = dict(_numbers(artifact))
                if "mAP" in figures:
                    return figures
    except (KeyError, IndexError, ValueError, TypeError, struct.error):
        return {}  # no answer, or not one of ML Metadata
    return {}


def _call(cluster: Cluster, pages: str, method: str, message: bytes) -> bytes:
    """The answer's message, which stands between a head of five bytes and a trailer."""
    answer = cluster.ask(f"{pages}/{SERVICE}/{method}", body=struct.pack(">BI", 0, len(message)) + message, kind=KIND)
    if answer is None:
        raise ValueError("no answer")
    kind, length = struct.unpack(">BI", answer[1][:5])
    if kind or len(answer[1]) < 5 + length:
        raise ValueError("no message")
    return answer[1][5 : 5 + length]


def _numbers(artifact: bytes) -> Iterator[tuple[str, float]]:
    for number, entry in _fields(artifact):
        if number == ARTIFACT_CUSTOM:
            value = dict(_fields(_first(entry, VALUE)))
            if DOUBLE in value:
                yield _first(entry, KEY).decode(), struct.unpack("<d", value[DOUBLE])[0]


def _first(message: bytes, wanted: int) -> bytes:
    """The first field of this number; KeyError if there is none."""
    for number, value in _fields(message):
        if number == wanted:
            return bytes(value)
    raise KeyError(wanted)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field: an int, or the bytes of a text, a message or a float."""
    at = 0
    while at < len(message):
        key, at = _read_varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == VARINT:
            value, at = _read_varint(message, at)
            yield number, value
            continue
        if kind == BYTES:
            length, at = _read_varint(message, at)
        else:
            length = {FIXED64: 8, FIXED32: 4}[kind]
        yield number, message[at : at + length]
        at += length


def _read_varint(message: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value, shift, at = value | (byte & 127) << shift, shift + 7, at + 1
        if byte < 128:
            return value, at


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 127:
        found.append(value & 127 | 128)
        value >>= 7
    return bytes([*found, value])


def _text(number: int, text: str) -> bytes:
    data = text.encode()
    return _varint(number << 3 | BYTES) + _varint(len(data)) + data
