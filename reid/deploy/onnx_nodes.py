"""Collects nodes that are put around an exported network, and their constants."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.deploy.onnx import import_onnx

ENDS = "reid_ends/"
"""The beginning of the names of all nodes and tensors around the network; they compute in float32 always."""


class Nodes:
    """Nodes that follow one another, and their constants; all names begin with `prefix`."""

    def __init__(self, prefix: str = ENDS) -> None:
        self.prefix = prefix
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def add(self, kind: str, inputs: Sequence[str], *, name: str, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        full = f"{self.prefix}{name}"
        self.nodes.append(import_onnx().helper.make_node(kind, inputs, [full], name=full, **attributes))
        return full

    def constant(self, value: NDArray[Any], *, name: str) -> str:
        """Adds a constant; returns its name."""
        full = f"{self.prefix}{name}"
        self.constants.append(import_onnx().numpy_helper.from_array(value, full))
        return full

    def number(self, value: float, *, name: str) -> str:
        """Adds a float32 number; returns its name."""
        return self.constant(np.array(value, np.float32), name=name)

    def whole(self, value: int | list[int], *, name: str) -> str:
        """Adds an int64 number, or a vector of them; returns its name."""
        return self.constant(np.array(value, np.int64), name=name)
