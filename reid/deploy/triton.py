"""Writes a model repository for Triton Inference Server, with the names of TAO's sample.

    <repository>/<model name>/config.pbtxt       input (C, H, W), fc_pred (D), dynamic batching; the contract
    <repository>/<model name>/1/model.plan       backend tensorrt
    <repository>/<model name>/1/model.onnx       backend onnxruntime; backend python, with model.py beside it

The preprocessing contract is a parameter of config.pbtxt, so that a client can ask the server for it.
Shapes: C channels, H height, W width, D embedding width.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

from reid.contract import Contract
from reid.deploy.build_record import read_record
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT, data_type_of, read_onnx
from reid.errors import ArtifactError
from reid.files.encryption import is_encrypted
from reid.files.locks import made_in_turn

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
    plan = backend == "tensorrt"
    contract = _contract_of_plan(model, max_batch_size=max_batch_size) if plan else _contract_of_onnx(model)
    _refuse_foreign(repository / name)
    # Beside the repository: Triton takes every folder inside it for a model.
    with made_in_turn(repository.with_name(f"{repository.name}.{name}")):
        _write_model_folder(
            repository, model, contract=contract, backend=backend, name=name, max_batch_size=max_batch_size
        )
    return contract


def _write_model_folder(
    repository: Path, model: Path, *, contract: Contract, backend: str, name: str, max_batch_size: int
) -> None:
    """Writes the model's folder beside the repository, then moves it to its place."""
    folder = repository / name
    partial, old = (repository.with_name(f"{repository.name}.{name}.{state}") for state in ("partial", "old"))
    try:
        for leftover in (partial, old):
            shutil.rmtree(leftover, ignore_errors=True)
        (partial / VERSION).mkdir(parents=True)
        shutil.copyfile(model, partial / VERSION / BACKENDS[backend].file)
        if backend == "python":
            shutil.copyfile(SERVED_MODEL, partial / VERSION / "model.py")
        config = config_text(contract, backend=backend, name=name, max_batch_size=max_batch_size)
        (partial / CONFIG).write_text(config, encoding="utf-8")
        repository.mkdir(parents=True, exist_ok=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
    except OSError as error:
        raise ArtifactError(f"{folder}: cannot be written\n  found: {error.strerror or error}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def config_text(contract: Contract, *, backend: str, name: str, max_batch_size: int) -> str:
    """The content of config.pbtxt: inference.ModelConfig of Triton's model_config.proto in protobuf's text format."""
    return f"""\
name: {json.dumps(name)}
{BACKENDS[backend].setting}
max_batch_size: {max_batch_size}
input [
  {{
    name: "{INPUT}"
    data_type: TYPE_FP32
    format: FORMAT_NCHW
    dims: [ {contract.channels}, {contract.height}, {contract.width} ]
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
parameters {{
  key: "{CONTRACT_KEY}"
  value {{ string_value: {json.dumps(contract.to_json())} }}
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


def _contract_of_onnx(model: Path) -> Contract:
    """The contract in an ONNX file; raises ArtifactError for FP8, which Triton's ONNX Runtime computes wrongly."""
    network, contract = read_onnx(model)
    if data_type_of(network) == "FP8":
        raise ArtifactError(
            f"{model}: in FP8; ONNX Runtime drops a ReLU before it unless its optimizations are held back\n"
            "  want: triton.backend=tensorrt and an engine of it, or an ONNX of another export.data_type"
        )
    return contract


def _contract_of_plan(engine: Path, *, max_batch_size: int) -> Contract:
    """The contract in the engine's build record; raises ArtifactError if Triton could not serve the engine."""
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
    return record.preprocessing
