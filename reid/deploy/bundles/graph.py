"""The ONNX file of a bundle: takes what the program feeds and gives the embedding that this project's own model gives.

The input is larger than the network's by a whole factor, and the file shrinks it as this project's decoder does, with
an antialiasing filter: the program's own resizing, which has none, then skips no pixels of a crop up to that size.

Shapes: B images in a batch, C channels.
"""

from typing import TYPE_CHECKING

import numpy as np

from reid.contract import Contract
from reid.deploy.bundles.feeding import Feed
from reid.deploy.onnx import CONTRACT_KEY, INPUT, check, import_onnx
from reid.deploy.onnx_ends import with_preprocessing
from reid.deploy.onnx_ports import rename_tensor
from reid.deploy.pixel_port import PIXELS_KEY, PixelPort

if TYPE_CHECKING:
    from onnx import ModelProto

UNSCALED = "reid_bundle/unscaled"


def bundled_graph(model: "ModelProto", contract: Contract, feed: Feed, *, factor: int, where: str) -> "ModelProto":
    """A copy of the exported model whose input (B, 3, factor * H, factor * W) is what `feed` makes.

    Raises ArtifactError, which names `where`, if the result fails onnx's check.
    """
    size = {"height": factor * contract.height, "width": factor * contract.width}
    port = PixelPort(data_type="float32", layout="NCHW", channel_order="RGB", largest=1.0, batch=None, **size)
    ours = with_preprocessing(model, contract, port, mirror=False, unit_length=False)
    if any(feed.mean) or set(feed.std) != {1.0}:
        _undo_normalisation(ours, feed)
    check(ours, where)
    return ours


def _undo_normalisation(model: "ModelProto", feed: Feed) -> None:
    """Puts x * std + mean before the input, which then no longer takes what the file's metadata says: they are cut."""
    onnx = import_onnx()
    graph = model.graph
    port = type(graph.input[0]).FromString(graph.input[0].SerializeToString())
    rename_tensor(graph, INPUT, UNSCALED)
    graph.ClearField("input")
    graph.input.append(port)
    make, constants = onnx.helper.make_node, {"std": feed.std, "mean": feed.mean}
    names = {name: f"reid_bundle/{name}" for name in constants}
    for name, values in constants.items():
        shaped = np.asarray(values, np.float32).reshape(1, -1, 1, 1)
        graph.initializer.append(onnx.numpy_helper.from_array(shaped, names[name]))
    product = "reid_bundle/product"
    nodes = [
        make("Mul", [INPUT, names["std"]], [product], name=product),
        make("Add", [product, names["mean"]], [UNSCALED], name=UNSCALED),
        *(type(node).FromString(node.SerializeToString()) for node in graph.node),
    ]
    graph.ClearField("node")
    graph.node.extend(nodes)
    kept = [entry for entry in model.metadata_props if entry.key not in (CONTRACT_KEY, PIXELS_KEY)]
    copies = [type(entry).FromString(entry.SerializeToString()) for entry in kept]
    model.ClearField("metadata_props")
    model.metadata_props.extend(copies)
