"""The model repository: read back by Triton's own published schema, and what is refused."""

import hashlib
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from reid.contract import Contract
from reid.deploy.build_record import BuildRecord, Profile
from reid.deploy.onnx import read_onnx
from reid.deploy.onnx_ends import PixelPort, with_preprocessing
from reid.deploy.triton import SERVED_MODEL, write_repository
from reid.errors import ArtifactError
from reid.model.embedder import Embedder
from reid.spec import load_spec
from reid.stages.gen_trt_engine import gen_trt_engine
from reid.tracking.stage_run import StageRun
from tests.exporting import exported

NAME = "re_identification_tao"
CONTRACT = Contract(height=256, width=128, channels=3, mean=(0.485, 0.456, 0.406), std=(0.226,) * 3, embedding=256)
Exported = tuple[Path, Embedder, Contract]


def written(repository: Path, model: Path, backend: str, **changes: Any) -> Contract:
    return write_repository(repository, model, **{"backend": backend, "name": NAME, "max_batch_size": 16} | changes)


def refusal(repository: Path, model: Path, backend: str, **changes: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        written(repository, model, backend, **changes)
    return str(caught.value)


def config_of(repository: Path) -> Any:
    """The config, where every word of it is of the schema; text_format.Parse refuses any other."""
    text = (repository / NAME / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def a_plan(folder: Path, **changes: Any) -> Path:
    """A file in the place of an engine, with a build record of gen_trt_engine; no GPU here builds a real one."""
    folder.mkdir(exist_ok=True)
    engine = folder / "model.engine"
    engine.write_bytes(b"a plan")
    record = BuildRecord(
        built=True,
        reason=None,
        onnx_sha256="",
        contract=asdict(CONTRACT),
        data_type="FP16",
        profile=Profile(1, 4, 16),
        workspace_mib=1024,
        package="tensorrt",
        version="10.13.3",
        engine_sha256=hashlib.sha256(b"a plan").hexdigest(),
    )
    (folder / "build.json").write_text(replace(record, **changes).to_json())
    return engine


@pytest.mark.parametrize(("backend", "file"), [("onnxruntime", "model.onnx"), ("python", "model.onnx")])
def test_the_onnx_is_served_under_the_names_of_taos_sample(
    plain: Exported, tmp_path: Path, backend: str, file: str
) -> None:
    onnx, _, contract = plain
    assert written(tmp_path / "repository", onnx, backend) == contract
    config = config_of(tmp_path / "repository")
    assert (config.name, config.backend, config.max_batch_size) == (NAME, backend, 16)
    assert config.HasField("dynamic_batching")
    (port,), (output,) = config.input, config.output
    assert (port.name, port.data_type, list(port.dims)) == ("input", model_config_pb2.TYPE_FP32, [3, 64, 32])
    assert port.format == model_config_pb2.ModelInput.FORMAT_NCHW
    assert (output.name, output.data_type, list(output.dims)) == ("fc_pred", model_config_pb2.TYPE_FP32, [16])
    assert Contract.from_json(config.parameters["reid.contract"].string_value) == contract
    assert set(config.parameters) == {"reid.contract", "reid.model"}  # the file knows no thresholds
    assert config.parameters["reid.model"].string_value == hashlib.sha256(onnx.read_bytes()).hexdigest()
    version = tmp_path / "repository" / NAME / "1"
    assert (version / file).read_bytes() == onnx.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["repository"], "nothing is left beside it"


@pytest.mark.parametrize(
    ("port", "described"),
    [
        (PixelPort(), ("TYPE_UINT8", "FORMAT_NHWC", [-1, -1, 3])),
        (PixelPort("float32", "NCHW", "BGR", 1.0, 64, 32), ("TYPE_FP32", "FORMAT_NCHW", [3, 64, 32])),
    ],
)
def test_a_model_that_prepares_images_itself_is_described_by_its_pixels(plain, tmp_path, port, described):
    core, contract = read_onnx(plain[0])
    model = with_preprocessing(core, contract, port, mirror=False, unit_length=True)
    (tmp_path / "inside.onnx").write_bytes(model.SerializeToString())
    written(tmp_path / "repository", tmp_path / "inside.onnx", "onnxruntime")
    config = config_of(tmp_path / "repository")
    (images,) = config.input
    types = model_config_pb2.DataType, model_config_pb2.ModelInput.Format
    assert (types[0].Name(images.data_type), types[1].Name(images.format), list(images.dims)) == described
    assert PixelPort.from_json(config.parameters["reid.pixels"].string_value) == port
    assert Contract.from_json(config.parameters["reid.contract"].string_value).normalized


def test_the_repository_may_be_the_folder_that_one_is_in(plain, tmp_path, monkeypatch):
    (tmp_path / "repository").mkdir()
    monkeypatch.chdir(tmp_path / "repository")
    write_repository(Path(), plain[0], backend="onnxruntime", name="reid", max_batch_size=4)
    assert [entry.name for entry in tmp_path.iterdir()] == ["repository"]
    assert (tmp_path / "repository" / "reid" / "1" / "model.onnx").is_file()


def test_a_model_of_a_fixed_batch_is_refused(plain, tmp_path):
    core, contract = read_onnx(plain[0])
    model = with_preprocessing(core, contract, PixelPort(batch=4), mirror=False, unit_length=False)
    (tmp_path / "four.onnx").write_bytes(model.SerializeToString())
    assert refusal(tmp_path / "repository", tmp_path / "four.onnx", "onnxruntime") == (
        f"{tmp_path / 'four.onnx'}: takes batches of 4 images only, and Triton makes batches of any size\n"
        "  want: one of export.pixels.batch=null"
    )


def test_the_python_backend_gets_the_file_that_runs_inside_triton_and_the_others_do_not(
    plain: Exported, tmp_path: Path
) -> None:
    for backend, names in (("python", ["model.onnx", "model.py"]), ("onnxruntime", ["model.onnx"])):
        written(tmp_path / backend, plain[0], backend)
        version = tmp_path / backend / NAME / "1"
        assert sorted(path.name for path in version.iterdir()) == names
    assert (tmp_path / "python" / NAME / "1" / "model.py").read_bytes() == SERVED_MODEL.read_bytes()


def test_a_plan_is_served_with_the_contract_of_its_build_record(tmp_path: Path) -> None:
    engine = a_plan(tmp_path / "engine")
    assert written(tmp_path / "repository", engine, "tensorrt") == CONTRACT
    config = config_of(tmp_path / "repository")
    assert (config.platform, list(config.input[0].dims), list(config.output[0].dims)) == (
        "tensorrt_plan", [3, 256, 128], [256],
    )  # fmt: skip
    assert (tmp_path / "repository" / NAME / "1" / "model.plan").read_bytes() == b"a plan"


@pytest.mark.slow
def test_the_users_own_copy_of_a_plan_is_served_with_the_record_that_came_with_it(on_cpu: None, tmp_path: Path) -> None:
    onnx, _, contract = exported(tmp_path / "m.onnx")
    copy = tmp_path / "mine" / "mine.engine"
    spec = load_spec(overrides=[f"gen_trt_engine.trt_engine={copy}"])
    gen_trt_engine(spec, onnx=onnx, engine=tmp_path / "engine", run=StageRun.none())
    assert sorted(file.name for file in copy.parent.iterdir()) == ["mine.engine", "mine.engine.json"]
    assert written(tmp_path / "repository", copy, "tensorrt") == contract
    assert (tmp_path / "repository" / NAME / "1" / "model.plan").read_bytes() == copy.read_bytes()


def test_an_engine_of_tensorrt_rtx_is_refused_with_the_reason(tmp_path: Path) -> None:
    engine = a_plan(tmp_path / "engine", package="tensorrt_rtx", version="1.7.1.116")
    assert refusal(tmp_path / "repository", engine, "tensorrt") == (
        f"{engine}: an engine of TensorRT-RTX (1.7.1.116); Triton's tensorrt backend loads plans of TensorRT only:\n"
        "  an RTX engine has another format, and its kernels are compiled at load time by a runtime that Triton "
        "does not have\n"
        "  want: an engine that gen_trt_engine built with the package tensorrt (pip install tensorrt, of the server's "
        "version),\n        on a GPU of the server's kind; "
        "or triton.backend=onnxruntime or python, which serve the ONNX"
    )
    assert not (tmp_path / "repository").exists()


def test_a_plan_that_takes_smaller_batches_than_the_server_is_refused(tmp_path: Path) -> None:
    engine = a_plan(tmp_path / "engine")
    assert refusal(tmp_path / "repository", engine, "tensorrt", max_batch_size=32) == (
        f"{engine}: takes batches of 1 to 16 images\n  want: 1 to 32 (triton.max_batch_size); build it with "
        "gen_trt_engine.tensorrt.max_batch_size=32, or lower triton.max_batch_size"
    )


def test_an_engine_of_which_nobody_knows_the_preprocessing_is_refused(tmp_path: Path) -> None:
    engine = a_plan(tmp_path / "engine")
    engine.write_bytes(b"another plan")
    assert refusal(tmp_path / "repository", engine, "tensorrt").startswith(
        f"{tmp_path}/engine/build.json: the record of another engine\n  found: engine_sha256 "
    )
    (tmp_path / "engine" / "build.json").write_text('{"built": false}')
    assert refusal(tmp_path / "repository", engine, "tensorrt").startswith(
        f"{tmp_path}/engine/build.json: not a build record (reason: found nothing, want this field)\n"
        "  want: built, reason, onnx_sha256, contract, "
    )
    (tmp_path / "engine" / "build.json").unlink()
    assert refusal(tmp_path / "repository", engine, "tensorrt") == (
        f"{engine}: no build record beside it, and so no preprocessing contract\n"
        "  want: model.engine.json or build.json, which gen_trt_engine writes"
    )


def test_an_engine_that_was_not_built_is_told_with_the_builders_reason(tmp_path: Path) -> None:
    engine = a_plan(tmp_path / "engine", built=False, reason="tensorrt builds on a GPU only and there is none")
    engine.unlink()
    assert refusal(tmp_path / "repository", engine, "tensorrt") == (
        f"{engine}: no such engine\n  found: not built: tensorrt builds on a GPU only and there is none\n"
        "  want:  one that the task gen_trt_engine built"
    )
    (tmp_path / "engine" / "build.json").unlink()
    assert refusal(tmp_path / "repository", engine, "tensorrt") == (
        f"{engine}: no such engine\n  want:  one that the task gen_trt_engine built"
    )


def test_an_encrypted_model_is_refused_for_triton_could_not_read_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REID_ENCRYPTION_KEY", "open sesame")
    model = exported(tmp_path / "m.onnx", key="open sesame")[0]
    for backend in ("onnxruntime", "python"):
        assert refusal(tmp_path / "repository", model, backend) == (
            f"{model}: encrypted; Triton cannot read it\n  want: one of export.encrypted=false"
        )
    assert not (tmp_path / "repository").exists()


def test_our_own_model_is_replaced_and_another_one_is_not(plain: Exported, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    written(repository, plain[0], "python")
    written(repository, plain[0], "onnxruntime")
    assert config_of(repository).backend == "onnxruntime"
    assert not (repository / NAME / "1" / "model.py").exists()
    (repository / NAME / "config.pbtxt").write_text(f'name: "{NAME}"\n')
    assert refusal(repository, plain[0], "python") == (
        f"{repository}/{NAME}: holds a model that reid did not write\n"
        "  want: another triton.model_repository or triton.model_name, or the folder removed"
    )


def test_a_damaged_onnx_leaves_what_is_served_as_it_was(plain: Exported, tmp_path: Path) -> None:
    repository, damaged = tmp_path / "repository", tmp_path / "damaged.onnx"
    written(repository, plain[0], "python")
    shutil.copy(plain[0], damaged)
    damaged.write_bytes(damaged.read_bytes()[:1000])
    assert refusal(repository, damaged, "python").startswith(f"{damaged}: damaged, or no ONNX file (")
    assert config_of(repository).backend == "python"
    assert (repository / NAME / "1" / "model.onnx").read_bytes() == plain[0].read_bytes()
