"""Opens the batch of an ONNX graph that was exported for a fixed number of images.

The number stands in three places: in the shapes that nodes reshape to, in those that they expand to, and in constants
that were expanded at export, such as a ViT's class token. It is always the first number. Whether a graph is the same
network afterwards, the caller sees by running both.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from reid.deploy.onnx import import_onnx, open_session

BATCH = "reid_batch"
"""The tensor with the number of images: a vector of one."""


def batch_nodes(images: str) -> Iterator[Any]:
    """The nodes that make BATCH of the tensor `images`."""
    onnx = import_onnx()
    make = onnx.helper.make_node
    first = onnx.numpy_helper.from_array(np.array([0], np.int64))
    yield make("Shape", [images], [f"{BATCH}_sizes"], name=f"{BATCH}_sizes")
    yield make("Constant", [], [f"{BATCH}_axis"], name=f"{BATCH}_axis", value=first)
    yield make("Gather", [f"{BATCH}_sizes", f"{BATCH}_axis"], [BATCH], name=BATCH)


def open_batch(model: Any, batch: int) -> None:
    """Writes the number of images as open wherever it is known; the graph then needs `batch_nodes` at its beginning."""
    graph = model.graph
    constants = _constants(model)
    nodes: list[Any] = []
    for number, node in enumerate(graph.node):
        name = f"{BATCH}_{number}"
        shape = constants.get(node.input[1]) if node.op_type in ("Reshape", "Expand") else None
        if shape is not None and len(shape):
            if node.op_type == "Reshape":
                node.input[1] = _added(graph, _open_shape(shape, batch), name)
                node.ClearField("attribute")  # its only one is allowzero, with which 0 would not be the input's own
            elif shape[0] == batch:
                nodes += _expanded_to_batch(graph, node, shape[1:], name)
        if node.op_type == "Concat" and node.attribute[0].i != 0:
            for place, tensor in enumerate(node.input):
                value = constants.get(tensor)
                if value is not None and value.ndim > 1 and len(value) == batch:
                    nodes += _row_for_each_image(graph, node, place, value, f"{name}_{place}")
        nodes.append(node)
    copies = [type(node).FromString(node.SerializeToString()) for node in nodes]
    graph.ClearField("node")
    graph.node.extend(copies)


def _constants(model: Any) -> dict[str, Any]:
    """The values of the tensors read by Reshape, Expand and Concat that do not depend on the images."""
    onnx, graph = import_onnx(), model.graph
    values = {weight.name: onnx.numpy_helper.to_array(weight) for weight in graph.initializer}
    fixed, known = [], set(values) | {""}
    for node in graph.node:
        if known.issuperset(node.input):
            fixed.append(node)
            known.update(node.output)
    read = {name for node in graph.node if node.op_type in ("Reshape", "Expand", "Concat") for name in node.input}
    wanted = [name for node in fixed for name in node.output if name in read]
    if wanted:
        outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in wanted]
        part = onnx.helper.make_graph(fixed, "constants", [], outputs, initializer=graph.initializer)
        alone = onnx.helper.make_model(part, opset_imports=model.opset_import, ir_version=model.ir_version)
        found = open_session(alone.SerializeToString()).run(wanted, {})
        values |= dict(zip(wanted, found, strict=True))
    return values


def _open_shape(shape: Any, batch: int) -> Any:
    """The shape to reshape to: its first number follows from the others, or is the input's own."""
    if -1 not in shape:
        return np.array([-1, *shape[1:]], np.int64)  # also for windows or heads, of which an image has many
    return np.array([0, *shape[1:]], np.int64) if shape[0] == batch else shape


def _added(graph: Any, value: Any, name: str) -> str:
    graph.initializer.append(import_onnx().numpy_helper.from_array(value, name))
    return name


def _expanded_to_batch(graph: Any, node: Any, rest: Any, name: str) -> Iterator[Any]:
    """The node that makes (batch, *rest), to which the Expand expands then."""
    rest = _added(graph, np.array(rest, np.int64), f"{name}_rest")
    node.input[1] = name
    yield import_onnx().helper.make_node("Concat", [BATCH, rest], [name], name=name, axis=0)


def _row_for_each_image(graph: Any, node: Any, place: int, value: Any, name: str) -> Iterator[Any]:
    """The nodes that repeat a constant's first row for each image, for the Concat's input number `place`."""
    rows = f"{name}_rows"
    row = _added(graph, value[:1], f"{name}_row")
    expand = import_onnx().helper.make_node("Expand", [row, ""], [rows], name=rows)
    yield from _expanded_to_batch(graph, expand, value.shape[1:], name)
    yield expand
    node.input[place] = rows
