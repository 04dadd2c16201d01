"""Puts the preparation of images, and what follows the network, into an ONNX file: pixels in, finished vectors out.

A program that runs such a file resizes and normalises nothing, so it cannot do so otherwise than training did.

Shapes: B images in a batch, C channels, H height, W width, D embedding width.
"""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reid.contract import Contract, scale_and_offset
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT, import_onnx
from reid.deploy.onnx_nodes import ENDS, Nodes
from reid.deploy.onnx_ports import rename_tensor
from reid.deploy.onnx_resize import Axis, resized
from reid.deploy.pixel_port import PIXELS_KEY, PixelPort
from reid.errors import ArtifactError
from reid.thresholds import KEY as THRESHOLDS_KEY

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["PIXELS_KEY", "PixelPort", "with_preprocessing"]

LEAST_OPSET = 13
SHORTEST = 1e-12
"""The least length that a vector is divided by, as in torch's normalize."""
PREPARED, EMBEDDING = f"{ENDS}prepared", f"{ENDS}embedding"
"""The network's own input and output inside the new graph."""


def with_preprocessing(
    model: "ModelProto", contract: Contract, port: PixelPort, *, mirror: bool, unit_length: bool, output: str = OUTPUT
) -> "ModelProto":
    """A copy of the model that takes pixels by `port` instead of prepared images (B, C, H, W).

    It resizes if the port's size is not the contract's, normalises, adds the embedding of the mirrored image if
    `mirror` is set and the network does not do so itself, and divides by the Euclidean length if `unit_length` is set.
    The embedding is called `output`. Pixels of data type float32 are rounded to whole numbers of 0..255 only if they
    are resized. The metadata holds the port, and a contract whose flip and normalized describe the new output; if the
    mirrored image is added, the thresholds are cut, which were measured without it. Raises ArtifactError if the
    contract asks for another resize, or the file prepares images already, or its opset is below 13.
    """
    onnx = import_onnx()
    contract.check()
    _check_core(model)
    ours = onnx.ModelProto.FromString(model.SerializeToString())
    graph = ours.graph
    rename_tensor(graph, INPUT, PREPARED)
    rename_tensor(graph, OUTPUT, EMBEDDING)
    twice = mirror and not contract.flip
    entry = _entry(contract, port, twice=twice)
    leave = _exit(output, twice=twice, width=contract.embedding, unit_length=unit_length and not contract.normalized)
    nodes = [*entry.nodes, *graph.node, *leave.nodes]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    for field in ("node", "input", "output", "value_info"):
        graph.ClearField(field)
    graph.node.extend(copies)
    graph.initializer.extend((*entry.constants, *leave.constants))
    pixels = onnx.TensorProto.UINT8 if port.data_type == "uint8" else onnx.TensorProto.FLOAT
    describe = onnx.helper.make_tensor_value_info
    graph.input.append(describe(INPUT, pixels, port.shape(contract.channels)))
    graph.output.append(describe(output, onnx.TensorProto.FLOAT, [port.batch or "batch", contract.embedding]))
    outside = replace(contract, flip=contract.flip or mirror, normalized=contract.normalized or unit_length)
    texts = {entry.key: entry.value for entry in ours.metadata_props}
    texts |= {CONTRACT_KEY: outside.to_json(), PIXELS_KEY: port.to_json()}
    if twice:
        texts.pop(THRESHOLDS_KEY, None)
    ours.ClearField("metadata_props")
    for key, value in texts.items():
        ours.metadata_props.add(key=key, value=value)
    return ours


def _check_core(model: "ModelProto") -> None:
    if any(entry.key == PIXELS_KEY for entry in model.metadata_props):
        raise ArtifactError("ONNX: it prepares images already\n  want: one of export.preprocessing=outside")
    opset = next(entry.version for entry in model.opset_import if not entry.domain)
    if opset < LEAST_OPSET:
        raise ArtifactError(f"ONNX: opset {opset}\n  want: {LEAST_OPSET} or later, to prepare images inside")


def _entry(contract: Contract, port: PixelPort, *, twice: bool) -> Nodes:
    """From the pixels to PREPARED; with `twice`, the images and then the mirrored images."""
    nodes = Nodes()
    images = _resized(nodes, _as_bytes(nodes, port), contract, port)
    if port.channel_order == "BGR" and contract.channels == 3:
        images = nodes.add("Gather", [images, nodes.whole([2, 1, 0], name="order")], name="rgb", axis=1)
    scale, offset = (values.reshape(1, -1, 1, 1) for values in scale_and_offset(contract.mean, contract.std))
    images = nodes.add("Mul", [images, nodes.constant(scale, name="scale")], name="scaled")
    images = nodes.add("Add", [images, nodes.constant(offset, name="offset")], name="normalised")
    if twice:
        backwards = nodes.whole([*range(contract.width)][::-1], name="backwards")
        mirrored = nodes.add("Gather", [images, backwards], name="mirrored", axis=3)
        nodes.add("Concat", [images, mirrored], name="prepared", axis=0)
    nodes.nodes[-1].output[0] = PREPARED
    return nodes


def _as_bytes(nodes: Nodes, port: PixelPort) -> str:
    """The pixels as float32 (B, C, H, W) of 0..255."""
    images = INPUT
    if port.data_type == "uint8":
        images = nodes.add("Cast", [images], name="float", to=import_onnx().TensorProto.FLOAT)
    if port.largest != 255:
        images = nodes.add("Mul", [images, nodes.number(255 / port.largest, name="white")], name="to_255")
    if port.layout == "NHWC":
        images = nodes.add("Transpose", [images], name="channels_first", perm=[0, 3, 1, 2])
    return images


def _resized(nodes: Nodes, images: str, contract: Contract, port: PixelPort) -> str:
    first = 1 if port.layout == "NHWC" else 2
    height = Axis("height", port.height, contract.height, shape_of=INPUT, place=first)
    width = Axis("width", port.width, contract.width, shape_of=INPUT, place=first + 1)
    if (height.changes or width.changes) and port.data_type == "float32":
        images = nodes.add("Round", [images], name="whole")
        limits = [nodes.number(0, name="black"), nodes.number(255, name="white_byte")]
        images = nodes.add("Clip", [images, *limits], name="bytes")
    return resized(nodes, images, height, width)


def _exit(output: str, *, twice: bool, width: int, unit_length: bool) -> Nodes:
    """From EMBEDDING to the output; with `twice`, EMBEDDING has a second half, of the mirrored images."""
    nodes = Nodes()
    vectors = EMBEDDING
    if twice:
        pairs = nodes.add("Reshape", [vectors, nodes.whole([2, -1, width], name="halves")], name="pairs")
        first = nodes.whole([0], name="first_axis")
        vectors = nodes.add("ReduceSum", [pairs, first], name="both", keepdims=0)
    if unit_length:
        last: dict[str, Any] = {"keepdims": 1}
        squares = nodes.add("Mul", [vectors, vectors], name="squares")
        length = nodes.add("ReduceSum", [squares, nodes.whole([1], name="last_axis")], name="squared_length", **last)
        length = nodes.add("Sqrt", [length], name="length")
        length = nodes.add("Max", [length, nodes.number(SHORTEST, name="shortest")], name="divisor")
        vectors = nodes.add("Div", [vectors, length], name="unit")
    if not nodes.nodes:
        nodes.add("Identity", [vectors], name="vectors")
    nodes.nodes[-1].output[0] = output
    return nodes
