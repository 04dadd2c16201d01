"""Converts an ONNX model to 8-bit numbers (INT8 or FP8) by pairs of QuantizeLinear and DequantizeLinear.

Such pairs say where a runtime may compute in 8 bits, and with which scales; TensorRT 10, 11 and TensorRT-RTX take them
as they are, and ONNX Runtime runs them on any machine. A pair stands before each input of a layer with weights
(convolution, Gemm, MatMul by weights) and before the input of a residual sum that does not come from the convolution
next to it, so that the sum can be made in the same kernel: these are the places that NVIDIA's guide recommends.
Everything else stays as it was, biases too, which TensorRT does not read as 32-bit integers. onnxruntime's own tool
puts pairs between a convolution and its ReLU as well, and quantises biases, so the pairs are written here.

All numbers are symmetric (zero point 0): a scale for each tensor, and a scale for each output channel of weights.
"""

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from reid.deploy.calibration import largest_values
from reid.deploy.onnx import DATA_TYPE_KEY, import_onnx
from reid.errors import SpecError

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

LARGEST = {"INT8": 127.0, "FP8": 448.0}
"""The largest number of each type; FP8 is float8 with 4 bits of exponent and 3 of fraction (E4M3FN)."""
FIRST_OPSET = {"INT8": 13, "FP8": 19}
"""The first opset whose QuantizeLinear knows the type, with a scale for each channel."""
ZERO = "reid_zero_point"


@dataclass(frozen=True)
class Layer:
    """A layer with weights."""

    name: str
    """As in torch: that of its weights without ".weight", or of the bias behind it; else the node's own name."""
    node: str
    inputs: str
    """The tensor that it reads besides its weights."""
    weights: str
    axis: int
    """The axis of the weights that counts output channels."""


def layers_of(model: "ModelProto") -> list[Layer]:
    """The layers that can be quantised, in the graph's order."""
    shapes = {weight.name: len(weight.dims) for weight in model.graph.initializer}
    found, of_biases = [], _names_by_bias(model)
    for node in model.graph.node:
        weights = node.input[1] if len(node.input) > 1 else ""
        if (axis := _output_axis(node, shapes.get(weights))) is not None:
            named = weights.endswith(".weight")
            name = weights.removesuffix(".weight") if named else of_biases.get(node.output[0], node.name)
            found.append(Layer(name, node.name, node.input[0], weights, axis))
    return found


def _names_by_bias(model: "ModelProto") -> dict[str, str]:
    """Tensor -> the name of the bias that alone is added to it, without ".bias".

    The exporter turns the weights of a transformer's layers and names them anew, and writes equal biases once.
    """
    added = [node for node in model.graph.node if node.op_type == "Add"]
    times = Counter(name for node in model.graph.node for name in node.input)
    return {
        tensor: bias.removesuffix(".bias")
        for node in added
        for tensor, bias in (node.input, reversed(node.input))
        if bias.endswith(".bias") and times[bias] == 1
    }


def _output_axis(node: "NodeProto", dimensions: int | None) -> int | None:
    """The axis of a layer's weights that counts output channels; None if the node is no layer with weights."""
    if node.op_type == "Conv" and dimensions is not None:
        return 0
    if node.op_type not in ("Gemm", "MatMul") or dimensions != 2:
        return None
    transposed = any(attribute.name == "transB" and attribute.i for attribute in node.attribute)
    return 0 if transposed else 1


def quantize(
    model: "ModelProto",
    images: Iterable[NDArray[np.float32]],
    *,
    keep: Collection[str] = (),
    data_type: str = "INT8",
    total: int | None = None,
) -> "ModelProto":
    """A copy of an FP32 onnx.ModelProto in "INT8" or "FP8", calibrated on preprocessed images (B, C, H, W).

    The layers named in `keep` stay in float32. `total` is the number of images, for the progress lines. Raises
    SpecError if the opset does not know the type, or a name in `keep` is no layer's.
    """
    require_opset(model, data_type)
    largest = largest_values(model, quantized_tensors(model), images, total=total)
    return with_pairs(model, largest, keep=keep, data_type=data_type)


def require_opset(model: "ModelProto", data_type: str) -> None:
    """Raises SpecError if the model's opset is older than the first that knows the type."""
    opset = next(entry.version for entry in model.opset_import if entry.domain == "")
    if opset < FIRST_OPSET[data_type]:
        raise SpecError(
            f"export.opset: {opset}: {data_type} begins with opset {FIRST_OPSET[data_type]}\n"
            f"  want: export.opset={FIRST_OPSET[data_type]} or above"
        )


def find_layers(model: "ModelProto", names: Collection[str], *, field: str) -> list[str]:
    """The layers of these names or names of nodes; raises SpecError, which names `field`, for an unknown one."""
    by_name = {layer.name: layer.name for layer in layers_of(model)}
    by_name |= {layer.node: layer.name for layer in layers_of(model)}
    for name in names:
        if name not in by_name:
            raise SpecError(
                f"{field}: {name}: no such layer\n  want: one of {', '.join(layer.name for layer in layers_of(model))}"
            )
    return [by_name[name] for name in names]


def quantized_tensors(model: "ModelProto") -> list[str]:
    """The tensors before which a pair stands if no layer is kept in float32."""
    layers = layers_of(model)
    sums = _residual_inputs(model, {layer.node for layer in layers})
    return list(dict.fromkeys([*(layer.inputs for layer in layers), *(tensor for _, tensor in sums)]))


def _residual_inputs(model: "ModelProto", quantized: Collection[str]) -> list[tuple[str, str]]:
    """(node, input) of each sum of a convolution that is quantised and another branch: the other branch's input.

    If both branches end in a convolution, the first is taken for the convolution, and the second for the shortcut.
    """
    producer = {output: node for node in model.graph.node for output in node.output}
    found = []
    for node in model.graph.node:
        if node.op_type != "Add" or not all(name in producer for name in node.input):
            continue
        before = [producer[name] for name in node.input]
        convolutions = [at for at, one in enumerate(before) if one.op_type == "Conv"]
        if convolutions and before[convolutions[0]].name in quantized:
            found.append((node.name, node.input[1 - convolutions[0]]))
    return found


def with_pairs(
    model: "ModelProto", largest: Mapping[str, float], *, keep: Collection[str], data_type: str
) -> "ModelProto":
    """A copy of the model in which each tensor of `largest`, name to largest magnitude, becomes 8-bit numbers.

    A tensor that is 0 on every calibration image has the scale of a largest value of 1.
    """
    onnx = import_onnx()
    copy: ModelProto = onnx.ModelProto.FromString(model.SerializeToString())
    names = find_layers(model, keep, field="layers kept in float32")
    layers = [layer for layer in layers_of(model) if layer.name not in names]
    nodes = {node.name: node for node in copy.graph.node}
    pairs = _Pairs(copy, data_type)
    for layer in layers:
        nodes[layer.node].input[0] = pairs.after(layer.inputs, largest[layer.inputs])
        nodes[layer.node].input[1] = pairs.of_weights(layer)
    for name, tensor in _residual_inputs(model, {layer.node for layer in layers}):
        inputs = nodes[name].input
        inputs[list(inputs).index(tensor)] = pairs.after(tensor, largest[tensor])
    pairs.write()
    for entry in copy.metadata_props:
        if entry.key == DATA_TYPE_KEY:
            entry.value = data_type
    return copy


class _Pairs:
    """The pairs of nodes that are added to a graph, and the scales and weights that they read."""

    def __init__(self, model: "ModelProto", data_type: str) -> None:
        onnx = import_onnx()
        self.graph: Any = model.graph
        self.data_type = data_type
        self.make = onnx.helper.make_node
        self.tensor = onnx.numpy_helper.from_array
        self.values = {weight.name: onnx.numpy_helper.to_array(weight) for weight in model.graph.initializer}
        self.added: list[Any] = [self.tensor(self._numbers(np.zeros((), np.float32)), ZERO)]
        self.first: list[NodeProto] = []
        self.behind: dict[str, list[NodeProto]] = {}

    def after(self, name: str, largest: float) -> str:
        """The tensor `name` behind a pair, which all of its quantised readers share."""
        if name not in self.behind:
            scale = np.float32((largest or 1.0) / LARGEST[self.data_type])
            self.added.append(self.tensor(np.asarray(scale), f"{name}_scale"))
            self.behind[name] = list(self._pair(name, f"{name}_scale"))
        return f"{name}_dequantized"

    def _pair(self, name: str, scale: str) -> Iterator["NodeProto"]:
        small, back = f"{name}_quantized", f"{name}_dequantized"
        yield self.make("QuantizeLinear", [name, scale, ZERO], [small], name=small)
        yield self.make("DequantizeLinear", [small, scale, ZERO], [back], name=back)

    def of_weights(self, layer: Layer) -> str:
        """The layer's weights as 8-bit numbers with a scale for each output channel, behind a DequantizeLinear."""
        name = layer.weights
        small, back, scale, zero = (f"{name}_{part}" for part in ("quantized", "dequantized", "scale", "zero"))
        if all(node.name != back for node in self.first):
            weights = self.values[name]
            others = tuple(axis for axis in range(weights.ndim) if axis != layer.axis)
            largest = np.abs(weights).max(axis=others, keepdims=True)
            scales = (np.where(largest > 0, largest, 1) / LARGEST[self.data_type]).astype(np.float32)
            numbers = self._numbers(weights / scales)
            zeros = self._numbers(np.zeros(scales.size, np.float32))
            self.added += [
                self.tensor(numbers, small),
                self.tensor(scales.ravel(), scale),
                self.tensor(zeros, zero),
            ]
            self.first.append(self.make("DequantizeLinear", [small, scale, zero], [back], name=back, axis=layer.axis))
        return back

    def _numbers(self, scaled: NDArray[np.float32]) -> NDArray[Any]:
        """Scaled values as the nearest numbers of the type, halves to even, as QuantizeLinear rounds."""
        most = LARGEST[self.data_type]
        if self.data_type == "INT8":
            return np.clip(np.rint(scaled), -most, most).astype(np.int8)
        from ml_dtypes import float8_e4m3fn

        return np.clip(scaled, -most, most).astype(float8_e4m3fn)

    def write(self) -> None:
        """Puts each pair behind the node that makes its tensor, and drops the weights that no node reads any more."""
        nodes = list(self.first)
        for port in self.graph.input:
            nodes += self.behind.get(port.name, [])
        for node in self.graph.node:
            nodes.append(node)
            for name in node.output:
                nodes += self.behind.get(name, [])
        read = {name for node in nodes for name in node.input}
        weights = [weight for weight in (*self.graph.initializer, *self.added) if weight.name in read]
        for field, entries in (("node", nodes), ("initializer", weights), ("value_info", [])):
            copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)
