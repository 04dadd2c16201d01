"""ML Metadata's two messages as its own protobuf writes them, so that our reading of the bytes is held to another's."""

import struct
from collections.abc import Mapping
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

Field = descriptor_pb2.FieldDescriptorProto
MESSAGES: dict[str, list[tuple[str, int, int, str]]] = {
    "Value": [
        ("int_value", 1, Field.TYPE_INT64, ""),
        ("double_value", 2, Field.TYPE_DOUBLE, ""),
        ("string_value", 3, Field.TYPE_STRING, ""),
    ],
    "Entry": [("key", 1, Field.TYPE_STRING, ""), ("value", 2, Field.TYPE_MESSAGE, "Value")],
    "Artifact": [
        ("id", 1, Field.TYPE_INT64, ""),
        ("type_id", 2, Field.TYPE_INT64, ""),
        ("uri", 3, Field.TYPE_STRING, ""),
        ("custom_properties", 5, Field.TYPE_MESSAGE, "Entry"),
        ("type", 8, Field.TYPE_STRING, ""),
    ],
    "Context": [("id", 1, Field.TYPE_INT64, ""), ("name", 3, Field.TYPE_STRING, "")],
    "GetContextByTypeAndNameRequest": [
        ("type_name", 1, Field.TYPE_STRING, ""),
        ("context_name", 2, Field.TYPE_STRING, ""),
    ],
    "GetContextByTypeAndNameResponse": [("context", 1, Field.TYPE_MESSAGE, "Context")],
    "GetArtifactsByContextRequest": [("context_id", 1, Field.TYPE_INT64, "")],
    "GetArtifactsByContextResponse": [("artifacts", 1, Field.TYPE_MESSAGE, "Artifact")],
}
REPEATED = {"custom_properties", "artifacts"}


@cache
def _message(name: str) -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="store.proto", package="ml", syntax="proto3")
    for message, fields in MESSAGES.items():
        made = file.message_type.add(name=message)
        for field, number, kind, of in fields:
            label = Field.LABEL_REPEATED if field in REPEATED else Field.LABEL_OPTIONAL
            made.field.add(
                name=field, number=number, type=kind, label=label, **({"type_name": f".ml.{of}"} if of else {})
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"ml.{name}"))


def grpc_web_answer(method: str, framed: bytes, runs: Mapping[str, Mapping[str, float]]) -> bytes:
    """The framed answer to a framed request. `runs`: run id -> the metrics of its evaluation."""
    request = _message(f"{method}Request").FromString(framed[5:])
    assert struct.unpack(">BI", framed[:5]) == (0, len(framed) - 5)
    answer = _message(f"{method}Response")()
    ids = {run_id: 300 + number for number, run_id in enumerate(runs)}
    if method == "GetContextByTypeAndName":
        if request.type_name == "system.PipelineRun" and request.context_name in runs:
            answer.context.id, answer.context.name = ids[request.context_name], request.context_name
    else:
        (run_id,) = [run_id for run_id, number in ids.items() if number == request.context_id]
        answer.artifacts.add(id=1, type="system.Model", uri="minio://a")
        for metrics in ({"best_mAP": 0.1}, runs[run_id]):
            made = answer.artifacts.add(id=2, type_id=16, type="system.Metrics", uri="minio://b")
            made.custom_properties.add(key="display_name").value.string_value = "metrics"
            for name, value in metrics.items():
                made.custom_properties.add(key=name).value.double_value = value
    message = answer.SerializeToString()
    trailer = b"grpc-status:0\r\ngrpc-message:\r\n"
    return struct.pack(">BI", 0, len(message)) + message + struct.pack(">BI", 128, len(trailer)) + trailer
