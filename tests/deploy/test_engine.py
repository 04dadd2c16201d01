"""The engine runner, over a driver and a TensorRT that compute on the CPU (tests/on_cpu): nothing here needs a GPU."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from reid.deploy import gpu
from reid.deploy.build_record import BuildRecord, Profile, record_file
from reid.deploy.cuda import Buffer, Stream
from reid.deploy.engine import EngineModel, Part
from reid.deploy.onnx import OnnxModel
from reid.deploy.opening import open_model
from reid.errors import ArtifactError, MissingDependency
from reid.files.encryption import decrypt
from tests.deploy.test_tensorrt import build
from tests.exporting import exported, images

API = {
    "Runtime": ["deserialize_cuda_engine"],
    "ICudaEngine": [
        *("num_io_tensors", "get_tensor_name", "get_tensor_shape", "get_tensor_profile_shape"),
        "create_execution_context",
    ],
    "IExecutionContext": ["set_input_shape", "set_tensor_address", "execute_async_v3"],
}
"""What the runner calls."""


@pytest.fixture
def engine(on_cpu, plain, tmp_path) -> Path:
    """An engine for batches of 2 to 4, tuned for 3, with its record beside it."""
    path = tmp_path / "model.engine"
    record = build(plain[0], path, profile=Profile(2, 3, 4))
    (tmp_path / "build.json").write_text(record.to_json())
    return path


def test_the_interface_that_the_runner_calls_is_the_real_packages():
    trt = pytest.importorskip("tensorrt_rtx_bindings", reason="THE INTERFACE IS NOT CHECKED: no TensorRT-RTX wheels")
    for kind, names in API.items():
        assert [name for name in names if not hasattr(getattr(trt, kind), name)] == []


@pytest.mark.parametrize("count", [0, 1, 2, 4, 5, 11])
def test_batches_of_any_size_are_cut_and_filled_up_to_what_the_profile_takes(engine, plain, count):
    model = EngineModel(engine, gpu_id=0)
    noise = images(11).numpy()[:count]
    assert model.contract == plain[2]
    assert model(noise) == pytest.approx(OnnxModel(plain[0], threads=1)(noise), abs=1e-5)


def test_the_next_batch_is_prepared_while_the_gpu_computes_and_waits_for_the_last_but_one_only(
    engine, plain, monkeypatch
):
    said: list[str] = []
    preprocess, fetch = type(plain[2]).preprocess, Part.fetch

    def told_preprocess(contract, pixels, *, out=None):
        said.append("prepare")
        return preprocess(contract, pixels, out=out)

    def told_fetch(part):
        if not part.fetched:
            said.append("fetch")
        fetch(part)

    monkeypatch.setattr("reid.deploy.engine.PREPARING_THREADS", 1)
    monkeypatch.setattr("reid.contract.Contract.preprocess", told_preprocess)
    monkeypatch.setattr(Part, "fetch", told_fetch)
    model = EngineModel(engine, gpu_id=0)
    pixels = np.random.default_rng(0).integers(0, 256, (12, 64, 32, 3), np.uint8)
    wait = [model.start(pixels[rows]) for rows in (slice(4), slice(4, 8), slice(8, 12))]
    assert said == ["prepare", "prepare", "fetch", "prepare"]
    found = [call() for call in reversed(wait)][::-1]  # in any order
    assert said[4:] == ["fetch", "fetch"]
    expected = OnnxModel(plain[0], threads=1)(preprocess(plain[2], pixels))
    assert np.concatenate(found) == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_pixels_are_prepared_by_the_contract_in_several_threads(engine, plain, count, monkeypatch):
    monkeypatch.setattr("reid.deploy.engine.os.cpu_count", lambda: 3)
    model = EngineModel(engine, gpu_id=0)
    pixels = np.random.default_rng(1).integers(0, 256, (count, 64, 32, 3), np.uint8)
    expected = OnnxModel(plain[0], threads=1)(plain[2].preprocess(pixels))
    assert model.start(pixels)() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(ArtifactError, match="images of shape"):
        model.start(pixels[:, 1:])


def test_a_model_is_asked_for_whole_batches_of_its_profile(engine, plain):
    opened = open_model(engine, device="cpu", images=9)
    assert [opened.whole_batches(size) for size in (1, 3, 4, 7, 128, 130)] == [4, 4, 4, 4, 128, 128]
    assert [open_model(plain[0], device="cpu", images=9).whole_batches(size) for size in (1, 7)] == [1, 7]


def test_images_of_another_size_are_refused(engine):
    with pytest.raises(ArtifactError) as caught:
        EngineModel(engine, gpu_id=0)(np.zeros((2, 3, 32, 64), np.float32))
    assert str(caught.value) == "TensorRT engine: images of shape (2, 3, 32, 64)\n  want: (batch, 3, 64, 32)"


def test_a_record_that_is_not_the_engines_is_an_error(engine):
    place = engine.with_name("build.json")
    written = json.loads(place.read_text())

    def error(**changes) -> str:
        place.write_text(json.dumps(written | changes))
        with pytest.raises(ArtifactError) as caught:
            EngineModel(engine, gpu_id=0)
        return str(caught.value)

    assert error(targets=["9.0"]) == (
        f"{engine}: built for compute capability 9.0\n  found: a GPU of C, 8.6\n"
        "  want:  an engine that gen_trt_engine builds for it"
    )
    ports = "inputs and outputs {'input': (-1, 3, 64, 32), 'fc_pred': (-1, 16)}, batch sizes (2, 3, 4)"
    assert error(contract=written["contract"] | {"height": 128}) == (
        f"{engine}: not what its record says: {ports}\n"
        "  want: {'input': (-1, 3, 128, 32), 'fc_pred': (-1, 16)}, batch sizes (2, 3, 4)"
    )
    wider = {"min_batch_size": 1, "opt_batch_size": 3, "max_batch_size": 4}
    assert error(profile=wider).endswith("batch sizes (1, 3, 4)")
    assert error(contract=written["contract"] | {"resize": "bicubic"}) == (
        f"{place}: preprocessing contract: resize 'bicubic' of 3 channels\n"
        "  want: 'bilinear'; nothing else can be done to an image here"
    )
    assert error(engine_sha256="0").startswith(f"{place}: the record of another engine\n  found: engine_sha256 0\n")
    assert error(colour="red").startswith(f"{place}: not a build record (")
    place.write_text(json.dumps(written | {"package": "os"}))
    with pytest.raises(MissingDependency) as caught:
        EngineModel(engine, gpu_id=0)
    assert str(caught.value) == (
        "running an engine of os: no package of that name is known, only tensorrt and tensorrt_rtx"
    )


def test_a_copy_elsewhere_has_its_own_record(engine, tmp_path):
    copy = tmp_path / "elsewhere" / "reid.plan"
    copy.parent.mkdir()
    shutil.copyfile(engine, copy)
    shutil.copyfile(engine.with_name("build.json"), f"{copy}.json")
    assert record_file(copy) == Path(f"{copy}.json")
    assert EngineModel(copy, gpu_id=0).record.profile == Profile(2, 3, 4)


def test_what_tensorrt_cannot_open_is_told_in_its_words(engine):
    record = json.loads(engine.with_name("build.json").read_text())
    engine.write_bytes(b"no engine")
    given = BuildRecord(**{**record, "profile": Profile(2, 3, 4)})
    with pytest.raises(ArtifactError) as caught:
        EngineModel(engine, gpu_id=0, record=given)
    assert str(caught.value) == (
        f"{engine}: tensorrt 11.0.of-the-tests cannot open it; built by 11.0.of-the-tests\n"
        "  first of 1 messages: IRuntime::deserializeCudaEngine: Error Code 1: the magic tag is not there"
    )


def test_an_engine_of_an_encrypted_onnx_is_encrypted_and_runs(on_cpu, tmp_path, monkeypatch):
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    path, _, _ = exported(tmp_path / "m.onnx", key="open sesame")
    record = build(path, tmp_path / "model.engine")
    assert record.encrypted
    (tmp_path / "build.json").write_text(record.to_json())
    assert [file.name for file in tmp_path.iterdir() if b"fc_pred" in file.read_bytes()] == []
    noise = images(2).numpy()
    assert EngineModel(tmp_path / "model.engine", gpu_id=0)(noise).shape == (2, 16)
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open barley")
    with pytest.raises(ArtifactError, match="the key is not the one it was encrypted with"):
        EngineModel(tmp_path / "model.engine", gpu_id=0)
    (tmp_path / "model.engine").write_bytes(decrypt(tmp_path / "model.engine", "open sesame").getvalue())
    with pytest.raises(ArtifactError, match="not encrypted, and an encryption key is given"):
        EngineModel(tmp_path / "model.engine", gpu_id=0, record=record)


def test_no_room_on_the_gpu_is_an_error_in_cudas_words(on_cpu):
    assert gpu.use_gpu(0) is not None
    with pytest.raises(ArtifactError) as caught:
        Buffer(Stream(), (1 << 39,))
    assert str(caught.value) == "CUDA: cuMemAlloc_v2: CUDA_ERROR_OUT_OF_MEMORY (2)"


def test_timings_are_kept_and_those_of_another_gpu_are_not_used(on_cpu, plain, tmp_path, caplog):
    cache = tmp_path / "timings"
    build(plain[0], tmp_path / "e", timing_cache=cache)
    assert cache.read_bytes() == b"measured"
    cache.write_bytes(b"of another GPU")
    build(plain[0], tmp_path / "e", timing_cache=cache)
    assert f"{cache}: timings of another GPU or TensorRT; measuring anew" in caplog.messages
    assert cache.read_bytes() == b"measured"
