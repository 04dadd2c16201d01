"""ONNX files that are damaged, of other types, or fail when they are run: one error, which names the file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from reid.deploy.build_record import RECORD
from reid.deploy.contract_files import read_contract
from reid.deploy.onnx import OUTPUT, OnnxModel, read_onnx
from reid.errors import ArtifactError
from tests.tiny_onnx import CONTRACT, write_mean_colour


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return write_mean_colour(tmp_path / "model.onnx")


def with_metadata(file: Path, **values: str) -> None:
    model = onnx.load(file)
    entries = {entry.key: entry.value for entry in model.metadata_props}
    helper.set_model_props(model, entries | {f"reid.{key}": value for key, value in values.items()})
    file.write_bytes(model.SerializeToString())


def ends_with(file: Path, node: Any, *, kind: int = TensorProto.FLOAT, **weights: Any) -> None:
    """Puts a node from "mixed" to the output, of another type perhaps, behind the graph."""
    model = onnx.load(file)
    model.graph.node[-1].output[0] = "mixed"
    model.graph.node.append(node)
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in weights.items())
    model.graph.output[0].type.tensor_type.elem_type = kind
    file.write_bytes(model.SerializeToString())


def refused(file: Path) -> str:
    with pytest.raises(ArtifactError) as caught:
        OnnxModel(file)(np.zeros((2, 3, 64, 32), np.float32))
    return str(caught.value)


CONTRACTS = [
    ({"mean": None}, "mean None\n  want: a list of numbers"),
    ({"height": "64"}, "height '64'\n  want: a whole number from 1"),
    ({"embedding": 10**9}, "height 64, width 32, embedding 1000000000\n  want: at most "),
]


@pytest.mark.parametrize(("change", "text"), CONTRACTS)
def test_a_contract_of_other_values_names_the_file(file: Path, change: dict[str, Any], text: str) -> None:
    with_metadata(file, contract=json.dumps(json.loads(CONTRACT.to_json()) | change))
    assert refused(file).startswith(f"{file}: preprocessing contract: {text}")
    with pytest.raises(ArtifactError) as caught:
        read_onnx(file)
    assert str(caught.value).startswith(f"{file}: preprocessing contract: {text}")


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({"settings": "{"}, "reid.settings: damaged, or of another kind\n  found: no JSON: "),
        ({"settings": "[" * 9999}, "reid.settings: damaged, or of another kind\n  found: brackets nested too deeply"),
        ({"pixels": "5"}, "pixels: found int\n  want: ["),
        ({"pixels": "[" * 9999}, "pixels: not JSON ("),
        ({"data_type": "FP1"}, "reid.data_type 'FP1'\n  want: one of FP32, FP16, INT8, FP8"),
    ],
    ids=["settings", "deep settings", "pixels", "deep pixels", "data type"],
)
def test_metadata_of_other_values_names_the_file(file: Path, entry: dict[str, str], text: str) -> None:
    with_metadata(file, **entry)
    assert refused(file).startswith(f"{file}: {text}")


def test_metadata_that_is_not_utf_8_is_an_error(file: Path) -> None:
    file.write_bytes(file.read_bytes().replace(b'"RGB"', b'"\xff\xfeB"'))
    assert refused(file) == f"{file}: its metadata is not UTF-8 (invalid start byte at byte 19)"
    with pytest.raises(ArtifactError) as caught:
        read_onnx(file)
    assert str(caught.value).startswith(f"{file}: its metadata is not UTF-8\n  found: b'")


def test_an_output_that_is_no_float_is_an_error(file: Path) -> None:
    ends_with(file, helper.make_node("Cast", ["mixed"], [OUTPUT], to=TensorProto.INT64), kind=TensorProto.INT64)
    assert refused(file) == f"{file}: its output is int64\n  want: float"
    with pytest.raises(ArtifactError, match="its output is int64"):
        read_onnx(file)


def test_a_graph_that_fails_when_it_is_run_names_the_file(file: Path) -> None:
    """2 images give 32 numbers, which are no rows of 7: nobody can know before the graph is run."""
    ends_with(file, helper.make_node("Reshape", ["mixed", "rows"], [OUTPUT]), rows=np.array([-1, 7], np.int64))
    model = onnx.load(file)
    model.graph.node[-1].op_type = "Expand"  # of an unknown number of rows, so that the shapes are not inferred
    model.graph.node[-1].input[1] = "shape"
    nodes = [
        helper.make_node("Shape", ["mixed"], ["size"]),
        helper.make_node("Add", ["size", "one"], ["shape"]),
    ]
    last = model.graph.node.pop()
    model.graph.node.extend([*nodes, last])
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 0], np.int64), "one"))
    file.write_bytes(model.SerializeToString())
    assert refused(file).startswith(f"{file}: cannot be run on 2 images (")


def test_a_file_larger_than_protobuf_allows_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    with path.open("wb") as stream:
        stream.truncate(3 << 30)
    text = f"{path}: no ONNX file: 3,221,225,472 bytes\n  want: at most 2,149,580,800, as protobuf allows"
    assert refused(path) == text


@pytest.mark.parametrize("location", ["../../etc/passwd", "/etc/passwd"])
def test_weights_outside_the_folder_are_refused(file: Path, location: str) -> None:
    model = onnx.load(file)
    weight = model.graph.initializer[1]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    for key, value in {"location": location, "offset": "0", "length": "192"}.items():
        weight.external_data.add(key=key, value=value)
    file.write_bytes(model.SerializeToString())
    assert refused(file).startswith(f"{file}: damaged, or no ONNX file (")


def test_a_name_that_is_not_utf8_is_an_error(tmp_path: Path) -> None:
    file = write_mean_colour(tmp_path / "m.onnx")
    file.write_bytes(file.read_bytes().replace(b"MatMul", b"M\xe1tMul"))
    with pytest.raises(ArtifactError) as caught:
        read_onnx(file)
    assert str(caught.value) == f"{file}: fails the ONNX check, and has a name that is not UTF-8"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("[" * 9999, "not a build record (found brackets nested too deeply, want JSON)"),
        ('{"built": 1}', "not a build record (built: found 1, want a valid boolean)"),
        ("[1]", "not a build record ("),
    ],
    ids=["deep", "types", "a list"],
)
def test_a_build_record_of_other_types_is_an_error(tmp_path: Path, content: str, text: str) -> None:
    (tmp_path / "reid.engine").write_bytes(b"no engine")
    (tmp_path / RECORD).write_text(content)
    with pytest.raises(ArtifactError) as caught:
        read_contract(tmp_path / "reid.engine")
    assert str(caught.value).startswith(f"{tmp_path / RECORD}: {text}")
    if text.endswith(")"):
        assert str(caught.value).endswith("\n  want: " + WANTED)


WANTED = (
    "built, reason, onnx_sha256, contract, data_type, profile, workspace_mib, package, version, targets, gpu, tf32, "
    "seconds, engine_bytes, engine_sha256, encrypted, measured, speed, parity, thresholds, chosen_on"
)
