"""Converts an ONNX model to half-precision weights and arithmetic, with float32 input and output.

TensorRT's strongly typed networks take every type from the ONNX file, so for FP16 the file must be converted; there is
no flag of the builder for it.

A transformer adds block after block to the same numbers, and only LayerNormalization, which reads them, makes them
small again. The sum can leave the range of half precision although no block does, so it stays in float32. Softmax and
GELU do not: with logits of up to 200, and inputs of GELU of up to 5, float32 made no embedding of a ViT closer.
"""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import numpy as np

from reid.deploy.pixel_port import PIXELS_KEY
from reid.errors import ArtifactError

if TYPE_CHECKING:
    from onnx import AttributeProto, ModelProto, NodeProto

KEPT_IN_FLOAT32 = {
    # sums over a whole map or vector, and the BNNeck, overflow or lose digits in half precision, and take little time
    *("BatchNormalization", "GlobalAveragePool", "InstanceNormalization", "LayerNormalization"),
    *("LpNormalization", "ReduceL2", "ReduceMean"),
    # the powers of GeM pooling overflow
    "Pow",
    # ONNX wants their inputs in float32
    *("Range", "Resize"),
}
MOVE_NUMBERS = {
    *("Concat", "Expand", "Flatten", "Gather", "Identity", "Pad", "Reshape", "Slice", "Split", "Squeeze"),
    *("Transpose", "Unsqueeze"),
}
"""Operators that compute nothing."""


def to_half(model: "ModelProto", *, large: Collection[str] = ()) -> "ModelProto":
    """An FP16 copy of an onnx.ModelProto: same names, shapes and metadata, float32 in and out.

    The nodes that read or give a tensor of `large` compute in float32 too (see half_range.py). Raises ArtifactError if
    the graph has branches or loops, which no network of this project exports, and if it prepares images: half precision
    does not hold the sums of a resize.
    """
    import onnx

    if any(entry.key == PIXELS_KEY for entry in model.metadata_props):
        raise ArtifactError("FP16: the file prepares images itself\n  want: one of export.preprocessing=outside")
    half: ModelProto = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    _HalfGraph(half.graph, large=large).convert()
    return half


class _HalfGraph:
    """A graph that is rewritten in place, node by node.

    Each tensor stays in the type that its producer gives, and is cast once if a consumer wants the other one.
    """

    def __init__(self, graph: Any, *, large: Collection[str]) -> None:
        from onnx import TensorProto

        self.float, self.half = TensorProto.FLOAT, TensorProto.FLOAT16
        self.graph, self.large = graph, set(large)
        tensors = (*graph.input, *graph.value_info, *graph.output)
        self.type_of = {tensor.name: tensor.type.tensor_type.elem_type for tensor in tensors}
        self.weights = {weight.name: weight for weight in graph.initializer}
        self.type_of |= {name: weight.data_type for name, weight in self.weights.items()}
        self.nodes: list[NodeProto] = []
        self.of_images = {tensor.name for tensor in graph.input}
        self.sums: set[str] = set()
        self.has_layer_norm = any(node.op_type == "LayerNormalization" for node in graph.node)

    def convert(self) -> None:
        """Rewrites every node, and drops the weights that no node reads any more."""
        outputs = {tensor.name for tensor in self.graph.output if self.type_of[tensor.name] == self.float}
        for node in list(self.graph.node):
            wanted = self.float if self._is_kept(node) else self.half
            node.input[:] = [self._as(name, wanted) for name in node.input]
            for attribute in node.attribute:
                self._retype(attribute, node, wanted)
            self.nodes.append(node)
            for name in node.output:
                if self.type_of.get(name) == self.float:
                    self.type_of[name] = wanted
        for name in sorted(outputs):
            self._give_float(name)
        read = {name for node in self.nodes for name in node.input}
        kept = [weight for name, weight in self.weights.items() if name in read]
        for field, entries in (("node", self.nodes), ("initializer", kept), ("value_info", [])):
            copies = [type(entry).FromString(entry.SerializeToString()) for entry in entries]
            self.graph.ClearField(field)
            getattr(self.graph, field).extend(copies)

    def _is_kept(self, node: "NodeProto") -> bool:
        """Whether the node computes in float32; to be called in the graph's order."""
        read = [name in self.of_images for name in node.input]
        if any(read):
            self.of_images.update(node.output)
        if node.op_type in KEPT_IN_FLOAT32 or not self.large.isdisjoint((*node.input, *node.output)):
            return True
        residual = self.has_layer_norm and node.op_type == "Add" and all(read)
        moved = node.op_type in MOVE_NUMBERS and any(name in self.sums for name in node.input)
        if residual or moved:
            self.sums.update(node.output)
        return residual or moved

    def _as(self, name: str, wanted: int) -> str:
        """The name of tensor `name` in the type `wanted`, cast if needed; integers and absent inputs keep theirs."""
        found = self.type_of.get(name)
        if found == wanted or found not in (self.float, self.half):
            return name
        other = f"{name}__{'half' if wanted == self.half else 'float'}"
        if other not in self.type_of:
            self.type_of[other] = wanted
            if name in self.weights:
                self.weights[other] = _rounded(self.weights[name], other)
            else:
                self._cast(name, other, wanted)
        return other

    def _cast(self, source: str, target: str, wanted: int) -> None:
        from onnx import helper

        self.nodes.append(helper.make_node("Cast", [source], [target], name=f"cast_{target}", to=wanted))

    def _give_float(self, output: str) -> None:
        """Renames a half-precision output of the graph, and casts it back under its own name."""
        if self.type_of[output] == self.float:
            return
        inner = f"{output}__half"
        for node in self.nodes:
            node.input[:] = [inner if name == output else name for name in node.input]
            node.output[:] = [inner if name == output else name for name in node.output]
        self._cast(inner, output, self.float)

    def _retype(self, attribute: "AttributeProto", node: "NodeProto", wanted: int) -> None:
        """Turns the float32 constants of a half-precision node, and its casts to float32, into half precision."""
        if attribute.HasField("g") or attribute.graphs:
            raise ArtifactError(
                f"FP16: node {node.name} ({node.op_type}) has a graph of its own\n  want: no branch, no loop"
            )
        if wanted != self.half:
            return
        if node.op_type == "Cast" and attribute.name == "to" and attribute.i == self.float:
            attribute.i = self.half
        elif attribute.HasField("t") and attribute.t.data_type == self.float:
            attribute.t.CopyFrom(_rounded(attribute.t, attribute.t.name))


def _rounded(weight: Any, name: str) -> Any:
    """A float32 onnx.TensorProto as float16 under another name; values beyond 65504 become 65504."""
    from onnx import numpy_helper

    limit = float(np.finfo(np.float16).max)
    return numpy_helper.from_array(np.clip(numpy_helper.to_array(weight), -limit, limit).astype(np.float16), name)
