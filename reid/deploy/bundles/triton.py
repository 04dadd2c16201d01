"""A model repository of Triton whose model prepares images itself: uint8 pixels of any size, vectors of length 1."""

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, check
from reid.deploy.onnx_ends import with_preprocessing
from reid.deploy.pixel_port import PixelPort
from reid.deploy.triton import config_text
from reid.thresholds import Thresholds

if TYPE_CHECKING:
    from onnx import ModelProto

REPOSITORY, SERVED = "model_repository", "reid"
PORT = PixelPort()
README = f"""\
# A model repository for Triton

    docker run --rm -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -v $PWD/{REPOSITORY}:/models \\
        nvcr.io/nvidia/tritonserver:25.08-py3 tritonserver --model-repository=/models

The model {SERVED} takes uint8 pixels (batch, height, width, 3), RGB, of any size, one size in a batch, and gives
vectors of length 1: resizing, mean, deviation and length are inside. The cosine of two vectors is their product.
"""


def write_self_contained(
    folder: Path, model: "ModelProto", contract: Contract, *, max_batch_size: int, thresholds: Thresholds | None
) -> bytes:
    """Writes the repository into `folder`; returns the content of the ONNX file, which takes pixels by PORT."""
    ours = with_preprocessing(model, contract, PORT, mirror=False, unit_length=True)
    check(ours, "model.onnx")
    content: bytes = ours.SerializeToString(deterministic=True)
    served = folder / REPOSITORY / SERVED
    (served / "1").mkdir(parents=True)
    (served / "1" / "model.onnx").write_bytes(content)
    outside = next(entry.value for entry in ours.metadata_props if entry.key == CONTRACT_KEY)
    config = config_text(
        Contract.from_json(outside),
        backend="onnxruntime",
        name=SERVED,
        max_batch_size=max_batch_size,
        thresholds=thresholds,
        pixels=PORT,
        digest=hashlib.sha256(content).hexdigest(),
    )
    (served / "config.pbtxt").write_text(config, encoding="utf-8")
    return content
