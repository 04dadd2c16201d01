"""The thresholds on their way: checkpoint or evaluation -> ONNX -> build record, Triton's configuration."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from reid.deploy.build_record import BuildRecord, Profile
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel, read_onnx, thresholds_in
from reid.deploy.opening import open_model
from reid.deploy.triton import config_text, write_repository
from reid.errors import ArtifactError
from reid.model.checkpoint import THRESHOLDS, load_model, save_model
from reid.model.safe_files import read_file, write_file
from reid.thresholds import KEY, Threshold, Thresholds
from tests.exporting import contract_of, some_network
from tests.tiny_onnx import write_mean_colour

KNOWN = Thresholds((Threshold("0.1 % let in", 0.625, 0.875, 0.001, 0.5),), '9 "drawn" images', 8, 1000)


@pytest.fixture(scope="module")
def onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_mean_colour(tmp_path_factory.mktemp("onnx") / "m.onnx", thresholds=KNOWN)


def test_an_onnx_file_brings_them_along_in_half_precision_too(onnx: Path) -> None:
    assert OnnxModel(onnx).thresholds == open_model(onnx, device="cpu", images=1).thresholds == KNOWN
    assert thresholds_in(to_half(read_onnx(onnx)[0]), onnx) == KNOWN


def test_a_damaged_entry_names_the_file(onnx: Path, tmp_path: Path) -> None:
    model, _ = read_onnx(onnx)
    next(entry for entry in model.metadata_props if entry.key == KEY).value = "no JSON"
    (tmp_path / "bad.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ArtifactError, match=r"bad\.onnx: not thresholds "):
        OnnxModel(tmp_path / "bad.onnx")


def test_tritons_configuration_has_them_beside_the_contract(onnx: Path, tmp_path: Path) -> None:
    contract = write_repository(tmp_path / "models", onnx, backend="onnxruntime", name="m", max_batch_size=4)
    text = (tmp_path / "models" / "m" / "config.pbtxt").read_text()
    config = text_format.Parse(text, model_config_pb2.ModelConfig())
    assert Thresholds.from_json(config.parameters[KEY].string_value) == KNOWN
    without = config_text(contract, backend="onnxruntime", name="m", max_batch_size=4)
    assert text.startswith(without) and "thresholds" not in without


def test_a_build_record_has_them_and_older_ones_are_read(onnx: Path) -> None:
    values: dict[str, Any] = {
        "built": False, "reason": "none", "onnx_sha256": "", "contract": {}, "data_type": "FP32",
        "profile": Profile(1, 1, 1), "workspace_mib": 1,
    }  # fmt: skip
    record = BuildRecord(**values, thresholds=json.loads(KNOWN.to_json()))
    assert record.known_thresholds == KNOWN
    assert BuildRecord(**values).known_thresholds is None


def test_a_checkpoint_has_them_and_older_ones_are_read(tmp_path: Path) -> None:
    network, file = some_network(), tmp_path / "m.pth"
    save_model(file, network, contract=contract_of(network.settings), persons=[1])
    assert load_model(file).thresholds is None
    content = read_file(file)
    content["reid"][THRESHOLDS] = KNOWN.to_json()
    with file.open("wb") as stream:
        write_file(content, stream)
    assert open_model(file, device="cpu", images=1).thresholds == KNOWN
    content["reid"][THRESHOLDS] = dataclasses.replace(KNOWN, measured_on="x").to_json()[:-5]
    with file.open("wb") as stream:
        write_file(content, stream)
    with pytest.raises(ArtifactError, match=r"m\.pth: not thresholds "):
        load_model(file)
