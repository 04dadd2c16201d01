"""PIL's bilinear resize as plain operators of ONNX, which ONNX Runtime and TensorRT take, equal to the last bit.

PIL uses a triangle filter, which widens when an image shrinks, along one axis and then along the other, each with
weights in whole numbers of 2**-22 and a result that is rounded to whole numbers (Pillow 13, Resample.c). Float32 cannot
hold such sums. So each weight is split into its upper and lower 11 bits, and two matrix products give two sums that
float32 holds exactly, even if a GPU multiplies in TF32; the lower sum up to a shrinking of 15 times, beyond which a tie
may be rounded to the other side. The weights are computed in whole numbers too: by numpy if the size is known, by the
graph from the image's shape if not. PIL begins with the height if that shrinks by more than twice what the width
shrinks by; for an open size, a branch in the graph decides.

Shapes: B images in a batch, C channels, H height, W width, S source pixels and T target pixels along an axis.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.deploy.onnx import import_onnx
from reid.deploy.onnx_nodes import Nodes

HALF = 11
"""Bits of the lower half of a weight; PIL's weights have twice as many."""


@dataclass(frozen=True)
class Axis:
    """A height or width that is resized."""

    name: str
    """height or width."""
    size: int | None
    """None: it is read from a tensor's shape."""
    target: int
    shape_of: str
    """The tensor whose shape holds the size."""
    place: int
    """Its place in that shape."""

    @property
    def changes(self) -> bool:
        return self.size != self.target


def resized(nodes: Nodes, images: str, height: Axis, width: Axis) -> str:
    """Adds the resize of images (B, C, H, W), whole numbers in float32; returns the name of its output."""
    axes = [axis for axis in (width, height) if axis.changes]
    order_known = len(axes) < 2 or (height.size and width.size)
    sizes = {axis.name: _size(nodes, axis) for axis in axes if axis.size is None or not order_known}
    weights = {axis.name: _weights(nodes, axis, sizes.get(axis.name, "")) for axis in axes}
    if not order_known:
        return _in_the_order_of_the_size(nodes, images, axes, sizes, weights)
    if height.size and width.size and height_first(height.size, height.target, width.size, width.target):
        axes.reverse()
    for axis in axes:
        images = _one_pass(nodes, images, axis, weights[axis.name])
    return images


def height_first(height: int, new_height: int, width: int, new_width: int) -> bool:
    """Whether PIL resizes the height before the width."""
    return height - new_height > max(0, 2 * (width - new_width))


def resize_weights(size: int, target: int) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The upper and the lower 11 bits of PIL's bilinear weights (T, S), in whole numbers of 2**-22.

    A source pixel at s + 1/2 counts for a target pixel at (t + 1/2) * size / target by a triangle that reaches one
    target pixel to both sides, or one source pixel if that is larger. Times 2 * target all are whole numbers.
    """
    source, targets = np.arange(size, dtype=np.int64), np.arange(target, dtype=np.int64)[:, None]
    distance = np.abs((2 * source + 1) * target - (2 * targets + 1) * size)
    weight = np.maximum(2 * max(size, target) - distance, 0)
    total = weight.sum(axis=1, keepdims=True)
    fixed = ((weight << (2 * HALF + 1)) + total) // (2 * total)
    return (fixed >> HALF).astype(np.float32), (fixed & ((1 << HALF) - 1)).astype(np.float32)


def _in_the_order_of_the_size(
    nodes: Nodes, images: str, axes: list[Axis], sizes: dict[str, str], weights: dict[str, list[str]]
) -> str:
    """Both passes over [width, height], in PIL's order for the size that the graph finds when it runs."""
    width, height = axes
    helper, kind = import_onnx().helper, import_onnx().TensorProto.FLOAT
    less = {}
    for axis in (height, width):
        target = nodes.whole(axis.target, name=f"{axis.name}/goal")
        less[axis.name] = nodes.add("Sub", [sizes[axis.name], target], name=f"{axis.name}/less")
    twice = nodes.add("Add", [less["width"], less["width"]], name="width/less_twice")
    most = nodes.add("Max", [twice, nodes.whole(0, name="order/none")], name="order/most")
    condition = nodes.add("Greater", [less["height"], most], name="order/height_first")
    branches = {}
    for name, order in {"then": (height, width), "else": (width, height)}.items():
        inner, last = Nodes(f"{nodes.prefix}{name}/"), images
        for axis in order:
            last = _one_pass(inner, last, axis, weights[axis.name])
        output = helper.make_tensor_value_info(last, kind, [None, None, height.target, width.target])
        graph = helper.make_graph(inner.nodes, f"{nodes.prefix}{name}", [], [output], initializer=inner.constants)
        branches[f"{name}_branch"] = graph
    return nodes.add("If", [condition], name="resized", **branches)


def _size(nodes: Nodes, axis: Axis) -> str:
    """The tensor with the size of an axis."""
    if axis.size:
        return nodes.whole(axis.size, name=f"{axis.name}/size")
    shape = nodes.add("Shape", [axis.shape_of], name=f"{axis.name}/shape")
    place = nodes.whole(axis.place, name=f"{axis.name}/place")
    return nodes.add("Gather", [shape, place], name=f"{axis.name}/size")


def _weights(nodes: Nodes, axis: Axis, size: str) -> list[str]:
    """The halves of the weights: (T, S) for the height, (S, T) for the width; constants if the size is known."""
    across = axis.name == "width"
    if axis.size is None:
        return _weights_of_open_size(nodes, axis, size, across=across)
    halves = [np.ascontiguousarray(half.T if across else half) for half in resize_weights(axis.size, axis.target)]
    return [nodes.constant(half, name=f"{axis.name}/{which}") for half, which in zip(halves, ("upper", "lower"))]


def _weights_of_open_size(nodes: Nodes, axis: Axis, size: str, *, across: bool) -> list[str]:
    """The same computation as resize_weights, by the graph, in int64."""

    def number(value: int, called: str) -> str:
        return nodes.whole(value, name=f"{axis.name}/{called}")

    def add(kind: str, inputs: list[str], called: str, **attributes: int) -> str:
        return nodes.add(kind, inputs, name=f"{axis.name}/{called}", **attributes)

    one, two, goal = number(1, "one"), number(2, "two"), number(axis.target, "target")
    column = nodes.whole([-1, 1] if across else [1, -1], name=f"{axis.name}/column")
    source = add("Reshape", [add("Range", [number(0, "zero"), size, one], "range"), column], "source")
    middle = add("Add", [add("Mul", [source, two], "source_twice"), one], "source_middle")
    odd = (2 * np.arange(axis.target, dtype=np.int64) + 1).reshape((1, -1) if across else (-1, 1))
    wanted = add("Mul", [nodes.constant(odd, name=f"{axis.name}/target_middle"), size], "wanted")
    distance = add("Abs", [add("Sub", [add("Mul", [middle, goal], "found"), wanted], "away")], "distance")
    reach = add("Mul", [add("Max", [size, goal], "larger"), two], "reach")
    weight = add("Max", [add("Sub", [reach, distance], "triangle"), number(0, "least")], "weight")
    sources = nodes.whole([0 if across else 1], name=f"{axis.name}/sources")
    total = add("ReduceSum", [weight, sources], "total", keepdims=1)
    shifted = add("Mul", [weight, number(1 << (2 * HALF + 1), "shift")], "shifted")
    fixed = add("Div", [add("Add", [shifted, total], "dividend"), add("Mul", [total, two], "divisor")], "fixed")
    step = number(1 << HALF, "step")
    upper = add("Div", [fixed, step], "upper_bits")
    lower = add("Sub", [fixed, add("Mul", [upper, step], "upper_value")], "lower_bits")
    kind = import_onnx().TensorProto.FLOAT
    return [add("Cast", [half], which, to=kind) for half, which in ((upper, "upper"), (lower, "lower"))]


def _one_pass(nodes: Nodes, images: str, axis: Axis, weights: list[str]) -> str:
    """Images (B, C, H, W) resized along one axis: (2**11 upper + lower) / 2**22, rounded half up."""

    def add(kind: str, inputs: list[str], called: str) -> str:
        return nodes.add(kind, inputs, name=f"{axis.name}/{called}")

    across = axis.name == "width"
    upper, lower = (
        add("MatMul", [images, half] if across else [half, images], called)
        for half, called in zip(weights, ("upper_sum", "lower_sum"))
    )
    step = nodes.number(1 << HALF, name=f"{axis.name}/sum_step")
    half = nodes.number(1 << (HALF - 1), name=f"{axis.name}/half")
    carried = add("Floor", [add("Div", [lower, step], "lower_whole")], "carried")
    total = add("Add", [add("Add", [upper, carried], "sum"), half], "sum_and_half")
    return add("Floor", [add("Div", [total, step], "ratio")], "resized")
