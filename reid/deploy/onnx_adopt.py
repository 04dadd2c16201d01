"""Turns an ONNX file of another exporter into one of this project: tries it, gives it our ports, adds the contract.

TAO's export leaves the width of its output open; BoxMOT and others name the ports otherwise, fix the batch or take
float16. None says how images are prepared.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.contract import Contract
from reid.deploy.onnx import (
    CONTRACT_KEY,
    DATA_TYPE_KEY,
    OnnxModel,
    check,
    import_onnx,
    one_line,
    open_session,
)
from reid.deploy.onnx_bytes import require_onnx_file
from reid.deploy.onnx_ports import ForeignPorts, foreign_ports, with_our_ports
from reid.errors import ArtifactError, ReidError

TRIED_IMAGES = 3
SAME = 1e-3
"""Embeddings that differ by less than this share of the largest coordinate count as equal: FP16 inside rounds."""


def adopt_onnx(
    path: Path, contract: Contract, *, output: str | None = None, any_width: bool = False
) -> tuple[bytes, Contract, ForeignPorts]:
    """The content of an ONNX file of this project with the network at `path`, its contract, and the ports it had.

    `output` names the embedding if the file has several outputs. The contract is the one given, with `normalized` set
    as the network's output is, and with `any_width` the width of its output too. The network is run on images of noise,
    before and after. Raises ArtifactError if the file is missing, is damaged or has a contract already; if its input is
    not images of the contract's size in float32 or float16; if it is not clear which output is the embedding; if an
    image's embedding is another one in a batch; and if the mirrored image is added though the contract says no, or the
    other way round. Raises MissingDependency without onnx and onnxruntime.
    """
    model = _read(path)
    ports = foreign_ports(model, contract, path, output=output)
    images = _noise(contract)
    before, ports = _tried(model, ports, images, path)
    if any_width:
        contract = dataclasses.replace(contract, embedding=before.shape[1])
    if before.shape[1] != contract.embedding:
        raise ArtifactError(
            f"{path}: its embeddings are {before.shape[1]} wide\n"
            f"  want: {contract.embedding}, or model.feat_dim={before.shape[1]} in the spec"
        )
    model = with_our_ports(model, ports, contract)
    half = any(weight.data_type == import_onnx().TensorProto.FLOAT16 for weight in model.graph.initializer)
    for key, value in ((CONTRACT_KEY, contract.to_json()), (DATA_TYPE_KEY, "FP16" if half else "FP32")):
        model.metadata_props.add(key=key, value=value)
    embeddings = _embed_noise(model, contract, path, images, ports.batch)
    if ports.batch and not _nearly_equal(before, embeddings):
        raise _fixed(path, ports.batch, "it embeds otherwise then")
    check(model, str(path))
    normalized = bool(np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=SAME))
    contract = dataclasses.replace(contract, normalized=normalized)
    next(entry for entry in model.metadata_props if entry.key == CONTRACT_KEY).value = contract.to_json()
    content: bytes = model.SerializeToString(deterministic=True)
    return content, contract, ports


def _read(path: Path) -> Any:
    """The file as onnx.ModelProto, with its weights; raises ArtifactError if it is no ONNX file of another project."""
    onnx = import_onnx()
    require_onnx_file(path)
    try:
        model = onnx.load(path)  # also weights in files beside it
    except Exception as error:  # protobuf's own DecodeError, whose place differs from version to version
        raise ArtifactError(f"{path}: damaged, or no ONNX file ({one_line(error)})") from error
    if any(entry.key == CONTRACT_KEY for entry in model.metadata_props):
        raise ArtifactError(
            f"{path}: has a preprocessing contract already\n  want: nothing; every task takes it as it is"
        )
    check(model, str(path))
    return model


def _noise(contract: Contract) -> NDArray[np.float32]:
    shape = (TRIED_IMAGES, contract.channels, contract.height, contract.width)
    return np.random.default_rng(0).standard_normal(shape, np.float32)


def _tried(
    model: Any, ports: ForeignPorts, images: NDArray[np.float32], path: Path
) -> tuple[NDArray[np.float32], ForeignPorts]:
    """The file's own embeddings, and its ports, with a batch of one if only the ports are open and a shape inside not.

    Raises ArtifactError as _run_as_it_is does.
    """
    try:
        return _run_as_it_is(model, ports, images, path), ports
    except ArtifactError:
        single = dataclasses.replace(ports, batch=1)
        if ports.batch:
            raise
        try:
            return _run_as_it_is(model, single, images, path), single
        except ArtifactError:
            pass
        raise


def _run_as_it_is(model: Any, ports: ForeignPorts, images: NDArray[np.float32], path: Path) -> NDArray[np.float32]:
    """The file's own embeddings (B, D) of images (B, C, H, W), which are cut and padded to its batch.

    Raises ArtifactError if it cannot be run, or gives something else than a vector for each image.
    """
    size = ports.batch or len(images)
    padding = np.zeros((-len(images) % size, *images.shape[1:]), np.float32)
    given = np.concatenate([images, padding])
    given = given.transpose(0, 2, 3, 1) if ports.channels_last else given
    given = np.ascontiguousarray(given, np.float16 if ports.half else np.float32)
    parts = []
    try:
        session = open_session(model.SerializeToString())
        for start in range(0, len(given), size):
            parts.append(session.run([ports.output], {ports.input: given[start : start + size]})[0])
    except ReidError:
        raise
    except Exception as error:  # onnxruntime raises a dozen classes of its own, with Exception as their only parent
        counted = f"{size} images" if size > 1 else "one image"
        raise ArtifactError(f"{path}: cannot be run on {counted} ({one_line(error)})") from error
    shape = parts[0].shape
    if len(shape) < 2 or shape[0] != size or any(axis != 1 for axis in shape[2:]):
        raise ArtifactError(
            f"{path}: output {ports.output} of {size} images has the shape {shape}\n"
            f"  want: ({size}, width), one embedding for each image"
        )
    embeddings: NDArray[np.float32] = np.concatenate(parts)[: len(images)].reshape(len(images), -1).astype(np.float32)
    return embeddings


def _embed_noise(
    model: Any, contract: Contract, path: Path, images: NDArray[np.float32], batch: int
) -> NDArray[np.float32]:
    """Embeddings (B, D) of noise; raises ArtifactError if they show that the network is not what the contract says.

    `batch` is the number of images that the file was made for, 0 if any.
    """
    try:
        network = OnnxModel(path, content=model.SerializeToString())
        embeddings = network(images)
        alone = np.concatenate([network(images[row : row + 1]) for row in range(TRIED_IMAGES)])
        mirrored = network(images[..., ::-1])
    except Exception as error:  # onnxruntime raises a dozen classes of its own, with Exception as their only parent
        if batch:
            raise _fixed(path, batch, one_line(error)) from error
        raise ArtifactError(f"{path}: cannot be run on {TRIED_IMAGES} images and on one ({one_line(error)})") from error
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


def _fixed(path: Path, batch: int, reason: str) -> ArtifactError:
    return ArtifactError(
        f"{path}: made for a batch of {batch}, which cannot be opened ({reason})\n"
        "  want: the network exported with a dynamic batch"
    )


def _nearly_equal(some: NDArray[np.float32], others: NDArray[np.float32]) -> bool:
    return bool(np.abs(some - others).max() <= SAME * np.abs(some).max())
