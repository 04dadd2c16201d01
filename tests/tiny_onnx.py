"""An ONNX file of this project without a network worth the name, made in a moment and without torch."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from reid.contract import Contract
from reid.deploy.onnx import CONTRACT_KEY, INPUT, OUTPUT
from reid.thresholds import KEY, Thresholds

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.25,) * 3, embedding=16)


def write_mean_colour(path: Path, *, thresholds: Thresholds | None = None) -> Path:
    """Images (B, 3, 64, 32) -> (B, 16), sixteen mixtures of their mean colour, as an ONNX file."""
    mixtures = np.arange(48, dtype=np.float32).reshape(3, 16) / 48
    graph = helper.make_graph(
        [
            helper.make_node("ReduceMean", [INPUT, "axes"], ["colour"], keepdims=0),
            helper.make_node("MatMul", ["colour", "mixtures"], [OUTPUT]),
        ],
        "mean colour",
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, ["batch", 3, 64, 32])],
        [helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["batch", 16])],
        [
            numpy_helper.from_array(np.array([2, 3], np.int64), "axes"),
            numpy_helper.from_array(mixtures, "mixtures"),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    metadata = {CONTRACT_KEY: CONTRACT.to_json(), **({KEY: thresholds.to_json()} if thresholds else {})}
    helper.set_model_props(model, metadata)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString())
    return path
