"""Turns an ONNX file of another exporter into one of this project: tries it, fixes its shapes, adds the contract.

TAO's export leaves the width of its output open, and does not say how images are prepared.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.onnx import (
    CONTRACT_KEY,
    DATA_TYPE_KEY,
    INPUT,
    OUTPUT,
    OnnxModel,
    check,
    import_onnx,
    one_line,
    ports_of,
    spell,
)
from reid.errors import ArtifactError

TRIED_IMAGES = 3
FLOAT32 = 1
"""ONNX's number of the type float32."""
SAME = 1e-3
"""Embeddings that differ by less than this share of the largest coordinate count as equal: FP16 inside rounds."""


def adopt_onnx(path: Path, contract: Contract) -> tuple[bytes, Contract]:
    """The content of an ONNX file of this project with the network at `path`, and its contract.

    The contract is the one given, with `normalized` set as the network's output is. The network is run on images of
    noise. Raises ArtifactError if the file is missing, is damaged or has a contract already; if its input and output
    are not "input" (B, C, H, W) and "fc_pred" (B, D) of the contract in float32; if an image's embedding is another one
    in a batch; and if the mirrored image is added though the contract says no, or the other way round. Raises
    MissingDependency without onnx and onnxruntime.
    """
    onnx = import_onnx()
    if not path.is_file():
        raise ArtifactError(f"{path}: no such ONNX file")
    try:
        model = onnx.load(path)  # also weights in files beside it
    except Exception as error:  # protobuf's own DecodeError, whose place differs from version to version
        raise ArtifactError(f"{path}: damaged, or no ONNX file ({one_line(error)})") from error
    if any(entry.key == CONTRACT_KEY for entry in model.metadata_props):
        raise ArtifactError(
            f"{path}: has a preprocessing contract already\n  want: nothing; every task takes it as it is"
        )
    check(model, str(path))
    model = _with_fixed_shapes(model, contract, path)
    half = any(weight.data_type == onnx.TensorProto.FLOAT16 for weight in model.graph.initializer)
    for key, value in ((CONTRACT_KEY, contract.to_json()), (DATA_TYPE_KEY, "FP16" if half else "FP32")):
        model.metadata_props.add(key=key, value=value)
    embeddings = _embed_noise(model, contract, path)
    normalized = bool(np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=SAME))
    contract = dataclasses.replace(contract, normalized=normalized)
    next(entry for entry in model.metadata_props if entry.key == CONTRACT_KEY).value = contract.to_json()
    content: bytes = model.SerializeToString(deterministic=True)
    return content, contract


def _with_fixed_shapes(model: Any, contract: Contract, path: Path) -> Any:
    """The model, its open axes fixed by the contract; raises ArtifactError if a port has another name, type or size."""
    graph = model.graph
    sizes = {INPUT: [contract.channels, contract.height, contract.width], OUTPUT: [contract.embedding]}
    names = [port.name for port in (*graph.input, *graph.output)]
    fits = names == list(sizes) and _fix(graph.input[0], sizes[INPUT])
    if fits:
        model = import_onnx().shape_inference.infer_shapes(model)
        del model.graph.value_info[:]
        fits = _fix(model.graph.output[0], sizes[OUTPUT])
    if not fits:
        want = spell([(name, ["batch", *numbers]) for name, numbers in sizes.items()])
        raise ArtifactError(
            f"{path}: inputs and outputs are {spell(ports_of(model))}\n"
            f"  want: {want}, float32, the batch open\n"
            "  as the spec says in model.input_channels, input_height, input_width and feat_dim"
        )
    return model


def _fix(port: Any, sizes: Sequence[int]) -> bool:
    """Whether a port is float32 of (batch, *sizes) with an open batch; if so, its other axes are fixed."""
    axes, numbers = port.type.tensor_type.shape.dim, [0, *sizes]  # an open axis has 0
    fits = (
        port.type.tensor_type.elem_type == FLOAT32
        and len(axes) == len(numbers)
        and all(axis.dim_value in (0, number) for axis, number in zip(axes, numbers, strict=True))
    )
    if fits:
        axes[0].dim_param = "batch"
        for axis, size in zip(axes[1:], sizes, strict=True):
            axis.dim_value = size
    return fits


def _embed_noise(model: Any, contract: Contract, path: Path) -> NDArray[np.float32]:
    """Embeddings (B, D) of noise; raises ArtifactError if they show that the network is not what the contract says."""
    network = OnnxModel(path, content=model.SerializeToString())
    shape = (TRIED_IMAGES, contract.channels, contract.height, contract.width)
    images = np.random.default_rng(0).standard_normal(shape, np.float32)
    try:
        embeddings = network(images)
        alone = np.concatenate([network(images[row : row + 1]) for row in range(TRIED_IMAGES)])
        mirrored = network(images[..., ::-1])
    except Exception as error:  # onnxruntime raises a dozen classes of its own, with Exception as their only parent
        raise ArtifactError(f"{path}: cannot be run on {TRIED_IMAGES} images and on one ({one_line(error)})") from error
    if embeddings.shape != (TRIED_IMAGES, contract.embedding):
        raise ArtifactError(
            f"{path}: its embeddings are {embeddings.shape[1]} wide\n"
            f"  want: {contract.embedding}, or model.feat_dim={embeddings.shape[1]} in the spec"
        )
    if not _nearly_equal(embeddings, alone):
        raise ArtifactError(
            f"{path}: an image's embedding in a batch of {TRIED_IMAGES} is not its embedding alone\n"
            "  want: a network in evaluation mode, exported with a dynamic batch"
        )
    if _nearly_equal(embeddings, mirrored) != contract.flip:
        found, other = ("gives", "true") if not contract.flip else ("does not give", "false")
        raise ArtifactError(
            f"{path}: {found} an image and its mirror image the same embedding\n  want: model.with_flip_feature={other}"
        )
    return embeddings


def _nearly_equal(some: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    return bool(np.abs(some - others).max() <= SAME * np.abs(some).max())
