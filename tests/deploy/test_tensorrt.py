import hashlib
import json
import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

import reid
from reid.deploy.build_record import BuildRecord, Profile
from reid.deploy.gpu import use_gpu
from reid.deploy.quantization import quantize
from reid.deploy.tensorrt import build_engine, trtexec_line
from reid.errors import ArtifactError, SpecError
from tests.exporting import contract_of
from tests.networks import network_settings

ROOT = Path(reid.__file__).parents[1]
RTX_VERSION = r"tensorrt_rtx \d+\.\d+\.\d+\.\d+"


@pytest.fixture
def rtx():
    return pytest.importorskip(
        "tensorrt_rtx_bindings", reason="NO ENGINE IS BUILT: the TensorRT-RTX wheels are for Linux on x86-64"
    )


@pytest.fixture
def no_gpu():
    if use_gpu(0) is not None:
        pytest.skip("there is a GPU here; this is about machines without")


@pytest.fixture
def capability(gpu_of_c, monkeypatch):
    """Says what the GPU of this machine can compute."""
    return lambda value: monkeypatch.setenv("CAPABILITY_OF_C", value)


def build(onnx_file: Path, engine: Path, **changes) -> BuildRecord:
    options = {
        "data_type": "FP32",
        "profile": Profile(1, 4, 16),
        "workspace_mib": 256,
        "compute_capabilities": ["8.6"],
        "timing_cache": None,
        "gpu_id": 0,
        "verbose": False,
    }
    return build_engine(onnx_file, engine, **options | changes)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("data_type", ["FP32", "FP16"])
def test_an_engine_is_built_without_a_gpu_and_the_record_says_how(rtx, no_gpu, plain, tmp_path, data_type):
    path, _, contract = plain
    engine = tmp_path / "made" / "model.engine"
    record = build(path, engine, data_type=data_type)
    assert json.loads(record.to_json()) == {
        "built": True,
        "reason": None,
        "onnx_sha256": sha256(path),
        "contract": json.loads(contract.to_json()),
        "data_type": data_type,
        "profile": {"min_batch_size": 1, "opt_batch_size": 4, "max_batch_size": 16},
        "workspace_mib": 256,
        "encrypted": False,
        "package": "tensorrt_rtx",
        "version": rtx.__version__,
        "targets": ["8.6"],
        "gpu": None,
        "tf32": True if data_type == "FP32" else None,
        "seconds": record.seconds,
        "engine_bytes": engine.stat().st_size,
        "engine_sha256": sha256(engine),
        "measured": "not run: no GPU",
        "speed": [],
        "parity": None,
        "thresholds": None,
        "chosen_on": None,
    }
    assert record.seconds is not None and record.seconds > 0
    assert engine.stat().st_size > 100_000
    assert [entry.name for entry in engine.parent.iterdir()] == ["model.engine"]


def test_an_fp16_engine_is_smaller_and_several_targets_make_one_engine(rtx, no_gpu, plain, tmp_path):
    whole = build(plain[0], tmp_path / "32")
    half = build(plain[0], tmp_path / "16", data_type="FP16", compute_capabilities=["8.6", "8.9", "12.0"])
    assert half.targets == ["8.6", "8.9", "12.0"]
    assert half.engine_bytes < 0.8 * whole.engine_bytes


def test_an_int8_engine_is_built_from_pairs_that_calibration_makes(rtx, no_gpu, plain, tmp_path):
    noise = np.random.default_rng(0).standard_normal((4, 3, 64, 32), np.float32)
    record = build(
        plain[0],
        tmp_path / "e",
        data_type="INT8",
        compute_capabilities=["8.6", "8.9", "12.0"],
        calibrated=lambda model, _: quantize(model, [noise]),
    )
    assert (record.built, record.data_type, record.tf32) == (True, "INT8", None)


def test_a_target_that_the_package_does_not_know_is_refused(rtx, no_gpu, plain, tmp_path):
    with pytest.raises(SpecError) as caught:
        build(plain[0], tmp_path / "e", compute_capabilities=["8.6", "9.0"])
    assert re.fullmatch(
        rf"gen_trt_engine\.tensorrt\.compute_capabilities: 9\.0: {RTX_VERSION} does not build for it; "
        r"want of 7\.5, 8\.0, 8\.6, 8\.9, 12\.0, 12\.1",
        str(caught.value),
    )
    with pytest.raises(SpecError) as caught:
        build(plain[0], tmp_path / "e", compute_capabilities=[])
    assert str(caught.value) == (
        "gen_trt_engine.tensorrt.compute_capabilities: empty; want one at least, e.g. ['8.6'], "
        "or null for the GPU that is here"
    )


def test_unless_told_tensorrt_rtx_builds_for_the_gpu_that_is_here(rtx, capability, plain, tmp_path, caplog):
    caplog.set_level(logging.INFO, "reid.deploy")
    capability("8.9")
    record = build(plain[0], tmp_path / "e", compute_capabilities=None)
    assert (record.package, record.targets, record.measured) == ("tensorrt_rtx", ["8.9"], "not run yet")
    assert caplog.messages == [
        "tensorrt cannot be imported (import of tensorrt halted; None in sys.modules); "
        "building for the GPU that is here, a GPU of C, compute capability 8.9 "
        "(gen_trt_engine.tensorrt.compute_capabilities)"
    ]
    told = build(plain[0], tmp_path / "e", compute_capabilities=["8.6"])
    assert (told.targets, told.measured) == (
        ["8.6"],
        "not run: built for compute capability 8.6, and the GPU here (a GPU of C) has 8.9",
    )


def test_unless_told_and_without_a_gpu_it_builds_ahead_of_time(rtx, no_gpu, plain, tmp_path, caplog):
    caplog.set_level(logging.INFO, "reid.deploy")
    record = build(plain[0], tmp_path / "e", compute_capabilities=None)
    assert (record.targets, record.measured) == (["8.6"], "not run: no GPU")
    assert caplog.messages == [
        "no GPU here: building for compute capability 8.6 (gen_trt_engine.tensorrt.compute_capabilities)"
    ]


def test_for_a_gpu_that_tensorrt_rtx_does_not_know_nothing_is_built_and_the_reason_says_what_would(
    rtx, capability, plain, tmp_path
):
    capability("9.0")
    record = build(plain[0], tmp_path / "e", compute_capabilities=None)
    assert (record.built, record.measured, record.targets) == (False, "not run: not built", [])
    assert record.reason == (
        "tensorrt cannot be imported (import of tensorrt halted; None in sys.modules); "
        f"tensorrt_rtx {rtx.__version__} does not build for the GPU that is here, a GPU of C, compute capability 9.0, "
        "only for 7.5, 8.0, 8.6, 8.9, 12.0, 12.1; want pip install tensorrt, which builds for the GPU it finds"
    )
    assert not (tmp_path / "e").exists()


def test_on_a_gpu_without_either_package_what_to_install_is_told(gpu_of_c, plain, tmp_path, monkeypatch):
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        monkeypatch.setitem(sys.modules, name, None)
    record = build(plain[0], tmp_path / "e", compute_capabilities=None)
    assert record.reason is not None
    assert re.fullmatch(
        "tensorrt cannot be imported (.*); tensorrt_rtx_bindings cannot be imported (.*); "
        "tensorrt_rtx cannot be imported (.*); want pip install tensorrt",
        record.reason,
    )


def test_tensorrt_builds_for_its_gpu_alone_and_says_so_where_others_are_asked_for(on_cpu, plain, tmp_path, caplog):
    for told in (None, ["8.6"]):
        assert build(plain[0], tmp_path / "e", compute_capabilities=told).targets == ["8.6"]
    assert caplog.messages == []
    assert build(plain[0], tmp_path / "e", compute_capabilities=["8.9"]).targets == ["8.6"]
    assert caplog.messages == [
        "gen_trt_engine.tensorrt.compute_capabilities has no effect: tensorrt builds for the GPU that is here, "
        "a GPU of C, compute capability 8.6"
    ]


def test_what_the_parser_cannot_read_is_told_in_its_own_words(rtx, no_gpu, tmp_path):
    path, contract = tmp_path / "dice.onnx", contract_of(network_settings())
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"], name="flat"),
        helper.make_node("Slice", ["flat", "first", "width", "axis"], ["cut"], name="cut"),
        helper.make_node("Bernoulli", ["cut"], ["fc_pred"], name="dice"),  # ONNX has it, TensorRT has not
    ]
    weights = [numpy_helper.from_array(np.array([n]), name) for name, n in (("first", 0), ("width", 16), ("axis", 1))]
    ports = [
        helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, ["batch", 3, 64, 32]),
        helper.make_tensor_value_info("fc_pred", onnx.TensorProto.FLOAT, ["batch", 16]),
    ]
    graph = helper.make_graph(nodes, "dice", ports[:1], ports[1:], weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    model.metadata_props.add(key="reid.contract", value=contract.to_json())
    onnx.save(model, path)
    with pytest.raises(ArtifactError) as caught:
        build(path, tmp_path / "e")
    assert re.fullmatch(
        rf"{RTX_VERSION} cannot read {path}\n  first of 1 messages: "
        r"In node 2 with name: dice and operator: Bernoulli \(checkBernoulli\): UNSUPPORTED_NODE: false",
        str(caught.value),
    )
    assert not (tmp_path / "e").exists()


def test_too_little_workspace_fails_with_what_tensorrt_says(rtx, no_gpu, plain, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        build(plain[0], tmp_path / "e", workspace_mib=1)
    said = str(caught.value)
    assert re.match(rf"{RTX_VERSION} builds no engine with 1 MiB from {plain[0]}\n  first of 1 messages: ", said)
    assert "workspace" in said
    assert not (tmp_path / "e").exists()


def test_batch_sizes_out_of_order_fail(rtx, no_gpu, plain, tmp_path):
    with pytest.raises(ArtifactError) as caught:
        build(plain[0], tmp_path / "e", profile=Profile(8, 4, 16))
    assert re.match(rf"{RTX_VERSION} refuses batch sizes \(8, 4, 16\) for {plain[0]}\n  first of", str(caught.value))


def test_a_timing_cache_is_not_silently_ignored(rtx, no_gpu, plain, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "reid.deploy"):
        build(plain[0], tmp_path / "e", timing_cache=tmp_path / "timings")
    assert caplog.messages == [
        "gen_trt_engine.timing_cache: TensorRT-RTX times no kernels while it builds; "
        f"{tmp_path / 'timings'} is not used"
    ]


def test_verbose_shows_what_tensorrt_tells(rtx, no_gpu, plain, tmp_path, caplog):
    with caplog.at_level(logging.INFO, "reid.deploy"):
        build(plain[0], tmp_path / "e")
        assert caplog.messages == []
        build(plain[0], tmp_path / "e", verbose=True)
    assert "TensorRT: Opset version:    18" in caplog.messages


@pytest.mark.slow
def test_without_either_package_nothing_is_built_and_the_reason_is_told(no_gpu, plain, tmp_path):
    for name in ("tensorrt", "tensorrt_rtx", "tensorrt_rtx_bindings"):
        (tmp_path / f"{name}.py").write_text("raise ImportError('hidden')\n")
    program = (
        "import sys; from pathlib import Path; from tests.deploy.test_tensorrt import build\n"
        "print(build(Path(sys.argv[1]), Path(sys.argv[2])).to_json())"
    )
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program, plain[0], tmp_path / "model.engine"],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    record = json.loads(done.stdout)
    assert record["built"] is False
    assert record["reason"] == (
        "tensorrt (installed) builds on a GPU only and there is none; "
        "tensorrt_rtx_bindings cannot be imported (hidden); tensorrt_rtx cannot be imported (hidden); "
        "TensorRT-RTX for Linux on x86-64 comes with pip install -e '.[tensorrt]' in the repository's root"
    )
    assert record["measured"] == "not run: not built"
    assert record["onnx_sha256"] == sha256(plain[0])
    assert not (tmp_path / "model.engine").exists()


def test_the_line_for_those_who_build_by_hand_has_the_networks_size():
    contract = contract_of(network_settings(height=256, width=128))
    assert trtexec_line(Path("/m/reid.onnx"), contract) == (
        "trtexec --onnx=/m/reid.onnx --minShapes=input:1x3x256x128 --optShapes=input:16x3x256x128 "
        "--maxShapes=input:64x3x256x128 --saveEngine=model.engine"
    )
    in_half = trtexec_line(Path("/m/reid.onnx"), contract, data_type="FP16")
    assert in_half.endswith("x128 --stronglyTyped --saveEngine=model.engine")
