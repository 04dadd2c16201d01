"""Finds the tensors of a network that half precision may not hold: its largest number is 65,504.

A CPU cannot show such an overflow. ONNX Runtime computes an FP16 file in float32 there and drops most of the roundings
between nodes, so a file that gives infinite embeddings on a GPU passes every comparison. The magnitudes are measured
in the float32 network instead.

Shapes: B images in a batch, C channels, H height, W width.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reid.deploy.calibration import largest_values

if TYPE_CHECKING:
    from onnx import ModelProto

SAFE = float(np.finfo(np.float16).max) / 2
"""Half of the range: images that were not measured may give larger numbers."""


def beyond_half(model: "ModelProto", images: Iterable[NDArray[np.float32]]) -> dict[str, float]:
    """The tensors of a float32 network that pass SAFE on these images (B, C, H, W), and their largest magnitudes."""
    import onnx

    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True)
    typed = (*inferred.graph.value_info, *inferred.graph.output)
    floats = {tensor.name for tensor in typed if tensor.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    computed = [name for node in model.graph.node for name in node.output if name in floats]
    return {name: most for name, most in largest_values(model, computed, images).items() if most > SAFE}
