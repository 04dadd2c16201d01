"""Writes a model repository for Triton Inference Server, with the names of TAO's sample.

    <repository>/<model name>/config.pbtxt       input (C, H, W), fc_pred (D), dynamic batching; the contract
    <repository>/<model name>/1/model.plan       backend tensorrt
    <repository>/<model name>/1/model.onnx       backend onnxruntime; backend python, with model.py beside it

The preprocessing contract is a parameter of config.pbtxt, so that a client can ask the server for it; so are the
thresholds of the model, if its file knows them. The SHA-256 of the model's file is another, by which a client notices
that it is served by other weights than before.
Shapes: C channels, H height, W width, D embedding width.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reid.contract import Contract
from reid.deploy.build_record import BuildRecord, read_record
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT, data_type_of, pixels_of_model, read_onnx, thresholds_in
from reid.deploy.pixel_port import PIXELS_KEY, PixelPort
from reid.deploy.triton_contract import MODEL_KEY
from reid.errors import ArtifactError
from reid.files.encryption import is_encrypted
from reid.files.hashes import file_sha256
from reid.files.locks import made_in_turn
from reid.files.writing import replacing_folder
from reid.thresholds import KEY as THRESHOLDS_KEY
from reid.thresholds import Thresholds

PREPARED = PixelPort("float32", "NCHW")
"""The input of a model that takes prepared images."""
VERSION = "1"
"""The only version of a model that is written."""
CONFIG = "config.pbtxt"
SERVED_MODEL = Path(__file__).with_name("triton_model.py")
"""The program that the Python backend runs."""


@dataclass(frozen=True)
class Backend:
    """How Triton runs a model file."""

    setting: str
    """The line of config.pbtxt that chooses it."""
    file: str
    """The model file's name in the repository."""


BACKENDS = {
    "tensorrt": Backend('platform: "tensorrt_plan"', "model.plan"),
    "onnxruntime": Backend('backend: "onnxruntime"', "model.onnx"),
    "python": Backend('backend: "python"', "model.onnx"),
}


def write_repository(repository: Path, model: Path, *, backend: str, name: str, max_batch_size: int) -> Contract:
    """Writes the folder `name` into `repository`, whole or not at all, and returns the model's contract.

    `model` is an ONNX file of `reid export`, or for backend "tensorrt" a plan with its build record beside it. A model
    folder that this project wrote is replaced. Raises ArtifactError if there is a folder that it did not write, if the
    model is missing, damaged, encrypted or of another kind, and for an engine of TensorRT-RTX.
    """
    if model.is_file() and is_encrypted(model):
        raise ArtifactError(f"{model}: encrypted; Triton cannot read it\n  want: one of export.encrypted=false")
    pixels = None
    if backend == "tensorrt":
        record = _servable_record(model, max_batch_size=max_batch_size)
        contract, thresholds = record.preprocessing, record.known_thresholds
    else:
        network, contract = read_onnx(model)
        refuse_fp8(network, model)
        pixels, thresholds = pixels_of_model(network), thresholds_in(network, model)
    if pixels and pixels.batch:
        raise ArtifactError(
            f"{model}: takes batches of {pixels.batch} images only, and Triton makes batches of any size\n"
            "  want: one of export.pixels.batch=null"
        )
    config = config_text(
        contract,
        backend=backend,
        name=name,
        max_batch_size=max_batch_size,
        thresholds=thresholds,
        pixels=pixels,
        digest=file_sha256(model),
    )
    _refuse_foreign(repository / name)
    repository = repository.absolute()  # "." has no name to make others of
    # Beside the repository: Triton takes every folder inside it for a model.
    with made_in_turn(repository.with_name(f"{repository.name}.{name}")):
        _write_model_folder(repository, model, config=config, backend=backend, name=name)
    return contract


def _write_model_folder(repository: Path, model: Path, *, config: str, backend: str, name: str) -> None:
    """Writes the model's folder beside the repository, then moves it to its place."""
    beside = repository.with_name(f"{repository.name}.{name}")
    with replacing_folder(repository / name, beside=beside) as partial:
        (partial / VERSION).mkdir()
        shutil.copyfile(model, partial / VERSION / BACKENDS[backend].file)
        if backend == "python":
            shutil.copyfile(SERVED_MODEL, partial / VERSION / "model.py")
        (partial / CONFIG).write_text(config, encoding="utf-8")


def config_text(
    contract: Contract,
    *,
    backend: str,
    name: str,
    max_batch_size: int,
    thresholds: Thresholds | None = None,
    pixels: PixelPort | None = None,
    digest: str | None = None,
) -> str:
    """The content of config.pbtxt: inference.ModelConfig of Triton's model_config.proto in protobuf's text format.

    With `pixels`, the model prepares images itself. `digest` is the SHA-256 of the model's file.
    """
    port = pixels or PREPARED.of_size(contract.height, contract.width)
    kind, dims = port.in_triton(contract.channels)
    more = _parameter(THRESHOLDS_KEY, thresholds.to_json()) if thresholds else ""
    more += _parameter(PIXELS_KEY, pixels.to_json()) if pixels else ""
    more += _parameter(MODEL_KEY, digest) if digest else ""
    return f"""\
name: {json.dumps(name)}
{BACKENDS[backend].setting}
max_batch_size: {max_batch_size}
input [
  {{
    name: "{INPUT}"
    data_type: {kind}
    format: FORMAT_{port.layout}
    dims: [ {dims} ]
  }}
]
output [
  {{
    name: "{OUTPUT}"
    data_type: TYPE_FP32
    dims: [ {contract.embedding} ]
  }}
]
dynamic_batching {{ }}
{_parameter(CONTRACT_KEY, contract.to_json())}{more}"""


def _parameter(key: str, value: str) -> str:
    return f"""\
parameters {{
  key: "{key}"
  value {{ string_value: {json.dumps(value)} }}
}}
"""


def _refuse_foreign(folder: Path) -> None:
    """Raises ArtifactError if the folder holds a model that this project did not write."""
    config = folder / CONFIG
    if folder.exists() and (not config.is_file() or CONTRACT_KEY not in config.read_text(encoding="utf-8")):
        raise ArtifactError(
            f"{folder}: holds a model that reid did not write\n"
            "  want: another triton.model_repository or triton.model_name, or the folder removed"
        )


def refuse_fp8(network: Any, model: Path) -> None:
    """Raises ArtifactError for FP8, which Triton's ONNX Runtime computes wrongly."""
    if data_type_of(network) == "FP8":
        raise ArtifactError(
            f"{model}: in FP8; ONNX Runtime drops a ReLU before it unless its optimizations are held back\n"
            "  want: triton.backend=tensorrt and an engine of it, or an ONNX of another export.data_type"
        )


def _servable_record(engine: Path, *, max_batch_size: int) -> BuildRecord:
    """The engine's build record; raises ArtifactError if Triton could not serve the engine."""
    record = read_record(engine)
    if record.package == "tensorrt_rtx":
        raise ArtifactError(
            f"{engine}: an engine of TensorRT-RTX ({record.version}); Triton's tensorrt backend loads plans of "
            "TensorRT only:\n  an RTX engine has another format, and its kernels are compiled at load time by a "
            "runtime that Triton does not have\n"
            "  want: an engine that gen_trt_engine built with the package tensorrt (pip install tensorrt, of the "
            "server's version),\n        on a GPU of the server's kind; or triton.backend=onnxruntime or python, "
            "which serve the ONNX"
        )
    profile = record.profile
    if profile.min_batch_size > 1 or profile.max_batch_size < max_batch_size:
        raise ArtifactError(
            f"{engine}: takes batches of {profile.min_batch_size} to {profile.max_batch_size} images\n"
            f"  want: 1 to {max_batch_size} (triton.max_batch_size); build it with "
            f"gen_trt_engine.tensorrt.max_batch_size={max_batch_size}, or lower triton.max_batch_size"
        )
    return record
