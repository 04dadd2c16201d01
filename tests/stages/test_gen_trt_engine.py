import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import reid
from reid.deploy.engine import EngineModel
from reid.deploy.gpu import use_gpu
from reid.deploy.onnx import read_onnx
from reid.deploy.onnx_ends import with_preprocessing
from reid.deploy.onnx_export import export_onnx
from reid.deploy.pixel_port import PixelPort
from reid.errors import ArtifactError, SpecError
from reid.files.encryption import write_model
from reid.spec import load_spec
from reid.stages.gen_trt_engine import gen_trt_engine
from reid.tracking.stage_run import StageRun
from tests.drawn_persons import write_persons
from tests.exporting import contract_of, exported, some_network

ROOT = Path(reid.__file__).parents[1]


@pytest.fixture(scope="module")
def onnx(tmp_path_factory) -> Path:
    return exported(tmp_path_factory.mktemp("onnx") / "onnx")[0]


@pytest.fixture
def rtx():
    if use_gpu(0) is not None:
        pytest.skip("there is a GPU here; this is about machines without")
    return pytest.importorskip(
        "tensorrt_rtx_bindings", reason="NO ENGINE IS BUILT: the TensorRT-RTX wheels are for Linux on x86-64"
    )


def run_stage(onnx: Path, engine: Path, *overrides: str, dataset: Path | None = None):
    spec = load_spec(text="results_dir: /results", overrides=overrides)
    return gen_trt_engine(spec, onnx=onnx, engine=engine, run=StageRun.none(), dataset=dataset)


def test_an_engine_and_its_record_are_written_as_the_spec_says(rtx, onnx, tmp_path):
    folder, copy = tmp_path / "engine", tmp_path / "mine" / "reid.engine"
    outcome = run_stage(
        onnx,
        folder,
        "gen_trt_engine.tensorrt.data_type=FP16",
        "gen_trt_engine.tensorrt.max_batch_size=8",
        "gen_trt_engine.tensorrt.workspace_size=512",
        "gen_trt_engine.tensorrt.compute_capabilities=['8.9']",
        f"gen_trt_engine.trt_engine={copy}",
    )
    assert sorted(entry.name for entry in folder.iterdir()) == ["build.json", "model.engine"]
    record = json.loads((folder / "build.json").read_text())
    assert (record["built"], record["data_type"], record["targets"]) == (True, "FP16", ["8.9"])
    assert record["profile"] == {"min_batch_size": 1, "opt_batch_size": 8, "max_batch_size": 8}
    assert (record["package"], record["workspace_mib"]) == ("tensorrt_rtx", 512)
    assert copy.read_bytes() == (folder / "model.engine").read_bytes()

    engine_mib = copy.stat().st_size / 2**20
    assert outcome.parameters == {"built": "true"}
    assert outcome.metrics == {"engine_built": 1.0, "engine_mib": engine_mib, "build_seconds": record["seconds"]}
    assert outcome.lines == [
        f"TensorRT engine: {engine_mib:.1f} MiB, FP16, by tensorrt_rtx {rtx.__version__} for compute capability 8.9 "
        f"in {record['seconds']:.1f} s; not run: no GPU"
    ]


def test_a_second_attempt_leaves_nothing_of_a_broken_first(rtx, onnx, tmp_path):
    for name in ("model.engine", "model.engine.candidate", "model.engine.candidate.partial", "build.json"):
        (tmp_path / name).write_bytes(b"cut short")
    assert run_stage(onnx, tmp_path).parameters == {"built": "true"}
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["build.json", "model.engine"]
    assert json.loads((tmp_path / "build.json").read_text())["engine_bytes"] == len(
        (tmp_path / "model.engine").read_bytes()
    )


def test_where_a_gpu_can_run_the_engine_it_is_timed_and_compared_on_query_images(on_cpu, onnx, tmp_path):
    folder, copy = tmp_path / "engine", tmp_path / "mine" / "reid.plan"
    dataset = write_persons(tmp_path / "persons", train=1, test=6)
    outcome = run_stage(
        onnx,
        folder,
        "gen_trt_engine.tensorrt.max_batch_size=6",
        f"gen_trt_engine.trt_engine={copy}",
        f"results_dir={tmp_path}",
        dataset=dataset,
    )
    record = json.loads((folder / "build.json").read_text())
    assert (record["package"], record["gpu"], record["targets"]) == ("tensorrt", "a GPU of C", ["8.6"])
    assert record["measured"] == "run on a GPU of C"
    assert [row["batch_size"] for row in record["speed"]] == [1, 2, 4, 6]
    for row in record["speed"]:
        assert row["images_per_second"] == pytest.approx(1000 * row["batch_size"] / row["latency_ms"])
    parity = record["parity"]
    assert (parity["passed"], parity["objections"], parity["images"]) == (True, [], 12)
    assert parity["worst_cosine"] > 0.999999
    assert outcome.metrics["engine_worst_cosine"] == parity["worst_cosine"]
    assert outcome.metrics["engine_latency_ms_6"] == record["speed"][-1]["latency_ms"]
    assert re.search(
        r"; run on a GPU of C: [\d.]+ ms for a batch of 1, [\d,]+ images/s in batches of 6; "
        r"cosine to the ONNX at least 1\.000000$",
        outcome.lines[0],
    )
    model = EngineModel(copy, gpu_id=0)  # its record came with it
    assert model.record.speed == record["speed"]


@pytest.mark.slow
def test_an_engine_that_gives_other_embeddings_fails_and_stays_a_candidate(on_cpu, onnx, tmp_path, monkeypatch):
    dataset = write_persons(tmp_path / "persons", train=1, test=6)
    right = EngineModel.__call__
    monkeypatch.setattr(EngineModel, "__call__", lambda model, images: right(model, images) * (np.arange(16) < 8))
    folder = tmp_path / "engine"
    with pytest.raises(ArtifactError) as caught:
        run_stage(onnx, folder, f"results_dir={tmp_path}", dataset=dataset)
    assert sorted(entry.name for entry in folder.iterdir()) == [
        "build.json", "model.engine.candidate", "parity_worst.html",
    ]  # fmt: skip
    record = json.loads((folder / "build.json").read_text())
    assert record["parity"]["passed"] is False
    assert str(caught.value) == (
        "engine parity: the engine does not give the ONNX's embeddings: "
        "12 of 12 comparisons below a cosine of 0.999 (gen_trt_engine.min_cosine)\n"
        f"  shown: {folder / 'parity_worst.html'}\n  the engine that failed: {folder / 'model.engine.candidate'}"
    )
    assert (folder / "parity_worst.html").read_text().count("data:image/jpeg;base64,") == 5
    run_stage(onnx, folder, f"results_dir={tmp_path}", "gen_trt_engine.min_cosine=0.01", dataset=dataset)
    assert sorted(entry.name for entry in folder.iterdir()) == ["build.json", "model.engine"]


def test_without_query_images_the_engine_is_timed_and_that_it_is_not_compared_is_said(on_cpu, onnx, tmp_path, caplog):
    run_stage(onnx, tmp_path)
    assert json.loads((tmp_path / "build.json").read_text())["parity"] is None
    assert "no query images: the engine's embeddings are not compared with the ONNX's" in caplog.messages


def prepared(onnx: Path, path: Path, *, key: str | None = None) -> Path:
    """The network of `onnx` as a file that takes pixels (B, C, H, W)."""
    model = with_preprocessing(*read_onnx(onnx), PixelPort(layout="NCHW"), mirror=False, unit_length=False)
    write_model(path, model.SerializeToString(), key=key)
    return path


def test_a_file_that_prepares_images_itself_is_not_built_and_the_record_says_what_to_do(onnx, tmp_path):
    path = prepared(onnx, tmp_path / "inside.onnx")
    outcome = run_stage(path, tmp_path)
    assert outcome.lines == [
        f"TensorRT engine not built: {path} prepares images itself; want an ONNX of export.preprocessing=outside, or "
        f"by hand: trtexec --onnx={path} --minShapes=input:1x3x64x32 --optShapes=input:16x3x64x32 "
        "--maxShapes=input:64x3x64x32 --saveEngine=model.engine"
    ]
    assert json.loads((tmp_path / "build.json").read_text())["built"] is False


def test_trtexec_is_not_named_for_an_encrypted_file_that_prepares_images_itself(onnx, tmp_path, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "secret")
    path = prepared(onnx, tmp_path / "inside.onnx", key="secret")
    assert run_stage(path, tmp_path).lines == [
        f"TensorRT engine not built: {path} prepares images itself; want an ONNX of export.preprocessing=outside"
    ]


def test_an_fp16_onnx_makes_an_fp16_engine_and_no_other(rtx, tmp_path):
    network = some_network()
    export_onnx(
        network,
        tmp_path / "half.onnx",
        contract=contract_of(network.settings),
        settings=network.settings,
        opset=18,
        overwrite=False,
        data_type="FP16",
    )
    run_stage(tmp_path / "half.onnx", tmp_path, "gen_trt_engine.tensorrt.data_type=FP16")
    assert json.loads((tmp_path / "build.json").read_text())["data_type"] == "FP16"
    with pytest.raises(ArtifactError) as caught:
        run_stage(tmp_path / "half.onnx", tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'half.onnx'}: in FP16, and FP32 is asked for\n"
        "  want: gen_trt_engine.tensorrt.data_type=FP16, or an ONNX of export.data_type=FP32"
    )


def test_where_nothing_can_be_built_the_stage_ends_well_and_says_why(onnx, tmp_path):
    if use_gpu(0) is not None:
        pytest.skip("there is a GPU here; this is about machines without")
    hidden, folder = tmp_path / "hidden", tmp_path / "engine"
    hidden.mkdir()
    folder.mkdir()
    (folder / "model.engine").write_bytes(b"of an earlier attempt")
    for name in ("tensorrt_rtx", "tensorrt_rtx_bindings"):
        (hidden / f"{name}.py").write_text("raise ImportError('hidden')\n")
    program = (
        "import dataclasses, json, sys; from pathlib import Path\n"
        "from tests.stages.test_gen_trt_engine import run_stage\n"
        "print(json.dumps(dataclasses.asdict(run_stage(Path(sys.argv[1]), Path(sys.argv[2])))))"
    )
    environment = os.environ | {"PYTHONPATH": f"{hidden}{os.pathsep}{ROOT}"}
    done = subprocess.run(
        [sys.executable, "-c", program, onnx, folder],
        env=environment,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    reason = (
        "tensorrt (not installed) builds on a GPU only and there is none; "
        "tensorrt_rtx_bindings cannot be imported (hidden); tensorrt_rtx cannot be imported (hidden); "
        "TensorRT-RTX for Linux on x86-64 comes with pip install -e '.[tensorrt]' in the repository's root"
    )
    assert json.loads(done.stdout) == {
        "metrics": {"engine_built": 0.0},
        "parameters": {"built": "false"},
        "lines": [f"TensorRT engine not built: {reason}"],
        "drawn": {},
    }
    assert [entry.name for entry in folder.iterdir()] == ["build.json"]
    record = json.loads((folder / "build.json").read_text())
    assert (record["built"], record["reason"], record["package"]) == (False, reason, None)


def test_a_file_that_is_no_onnx_fails_and_leaves_no_record(tmp_path):
    (tmp_path / "onnx").write_bytes(b"no network at all")
    (tmp_path / "engine").mkdir()
    (tmp_path / "engine" / "build.json").write_text("of an earlier attempt")
    with pytest.raises(ArtifactError) as caught:
        run_stage(tmp_path / "onnx", tmp_path / "engine")
    assert str(caught.value).startswith(f"{tmp_path / 'onnx'}: damaged, or no ONNX file (")
    assert list((tmp_path / "engine").iterdir()) == []


def test_a_target_that_cannot_be_built_for_fails(rtx, onnx, tmp_path):
    with pytest.raises(SpecError) as caught:
        run_stage(onnx, tmp_path / "engine", "gen_trt_engine.tensorrt.compute_capabilities=['9.0']")
    assert str(caught.value) == (
        f"gen_trt_engine.tensorrt.compute_capabilities: 9.0: tensorrt_rtx {rtx.__version__} does not build for it; "
        "want of 7.5, 8.0, 8.6, 8.9, 12.0, 12.1"
    )


def test_on_a_gpu_that_the_package_does_not_know_the_stage_ends_well_with_what_to_do(
    gpu_of_c, onnx, tmp_path, monkeypatch
):
    pytest.importorskip("tensorrt_rtx_bindings", reason="NO ENGINE IS BUILT: the wheels are for Linux on x86-64")
    monkeypatch.setenv("CAPABILITY_OF_C", "9.0")
    outcome = run_stage(onnx, tmp_path)
    assert (outcome.metrics, outcome.parameters) == ({"engine_built": 0.0}, {"built": "false"})
    assert re.fullmatch(
        r"TensorRT engine not built: tensorrt cannot be imported \(.*\); "
        r"tensorrt_rtx \S+ does not build for the GPU that is here, a GPU of C, "
        r"compute capability 9\.0, only for .*; want pip install tensorrt, which builds for the GPU it finds",
        outcome.lines[0],
    )
    assert [entry.name for entry in tmp_path.iterdir()] == ["build.json"]
