from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator

from reid.deploy.half import to_half
from reid.deploy.half_range import beyond_half
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.onnx_export import export_onnx
from reid.deploy.parity import parity
from reid.errors import ArtifactError
from reid.model.embedder import build_embedder
from tests.exporting import contract_of, images
from tests.networks import network_settings


def graph_model(nodes: list, weights: dict[str, np.ndarray], output: list) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "hand",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", 2])],
        [helper.make_tensor_value_info("fc_pred", TensorProto.FLOAT, output)],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def run(model: onnx.ModelProto, values: list) -> np.ndarray:
    import onnxruntime

    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"input": np.array(values, np.float32)})[0]


@pytest.mark.parametrize("fixture", ["plain", "flipped"])
def test_a_converted_network_gives_nearly_the_same_embeddings(fixture, request):
    path, network, contract = request.getfixturevalue(fixture)
    half = to_half(read_onnx(path)[0])
    onnx.checker.check_model(half, full_check=True)
    found = OnnxModel(content=half.SerializeToString(), threads=1)
    with torch.no_grad():
        expected = network(images(5)).numpy()
    # half precision keeps 11 bits: 2 ** -11 = 5e-4 a coordinate, and the cosine falls with its square
    assert parity(expected, found(images(5).numpy())).worst_cosine > 0.99999
    assert found.contract == contract
    assert half.ByteSize() < 0.6 * path.stat().st_size


@pytest.mark.slow
def test_a_transformer_is_converted_too(tmp_path):
    settings = network_settings(backbone="timm/test_vit", height=160, width=160)
    network, contract = build_embedder(**settings).eval(), contract_of(settings)
    export_onnx(network, tmp_path / "vit.onnx", contract=contract, settings=settings, opset=18, overwrite=False)
    half = to_half(read_onnx(tmp_path / "vit.onnx")[0])
    pixels = torch.randn(2, 3, 160, 160, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = network(pixels).numpy()
    assert parity(expected, OnnxModel(content=half.SerializeToString())(pixels.numpy())).worst_cosine > 0.9999


def test_weights_are_half_but_for_the_head_and_the_ports_are_float32(plain):
    path = plain[0]
    before, after = read_onnx(path)[0], to_half(read_onnx(path)[0])
    types = Counter(weight.data_type for weight in after.graph.initializer)
    neck = sum(len(node.input) - 1 for node in before.graph.node if node.op_type == "BatchNormalization")
    assert types[TensorProto.FLOAT] == neck
    assert types[TensorProto.FLOAT16] >= 10
    for port in (*after.graph.input, *after.graph.output):
        assert port.type.tensor_type.elem_type == TensorProto.FLOAT
    assert before == read_onnx(path)[0]  # the argument is left as it was


def test_numbers_beyond_half_precision_become_its_largest():
    # 65504 is the largest half; 1e9 would be infinite, and infinite times zero no number at all.
    nodes = [helper.make_node("Mul", ["input", "scale"], ["fc_pred"], name="mul")]
    model = graph_model(nodes, {"scale": np.array([1e9, 2.0], np.float32)}, ["batch", 2])
    assert run(to_half(model), [[0.0, 3.0], [1.0, 3.0]]).tolist() == [[0, 6], [65504, 6]]


def test_constants_and_casts_inside_a_graph_follow_its_type():
    # input -> integers and back -> plus a constant: 2.7 -> 2 -> 2.5, -1.2 -> -1 -> -0.5
    constant = numpy_helper.from_array(np.array(0.5, np.float32), "half a one")
    nodes = [
        helper.make_node("Cast", ["input"], ["whole"], name="down", to=TensorProto.INT64),
        helper.make_node("Cast", ["whole"], ["back"], name="up", to=TensorProto.FLOAT),
        helper.make_node("Constant", [], ["term"], name="constant", value=constant),
        helper.make_node("Add", ["back", "term"], ["fc_pred"], name="add"),
    ]
    half = to_half(graph_model(nodes, {}, ["batch", 2]))
    assert run(half, [[2.7, -1.2]]).tolist() == [[2.5, -0.5]]
    wide = {node.name for node in half.graph.node for attribute in node.attribute if attribute.i == TensorProto.FLOAT}
    assert wide == {"cast_fc_pred"}


def test_a_mean_over_many_large_values_does_not_overflow():
    # 4 x 60,000 is beyond 65,504, its mean is not; the output of a node kept in float32 needs no cast back
    nodes = [
        helper.make_node("Concat", ["input", "input"], ["twice"], name="concat", axis=1),
        helper.make_node("ReduceMean", ["twice", "axes"], ["fc_pred"], name="mean", keepdims=1),
    ]
    half = to_half(graph_model(nodes, {"axes": np.array([1])}, ["batch", 1]))
    assert run(half, [[60000.0, 60000.0]]).tolist() == [[60000]]
    assert [node.op_type for node in half.graph.node] == ["Cast", "Concat", "Cast", "ReduceMean"]


def residual_graph(norm: str) -> onnx.ModelProto:
    """x -> 1.5 x + 2 x, turned over and back, then normalised; neither branch leaves half precision at x = 30,000."""
    nodes = [
        helper.make_node("Mul", ["input", "one and a half"], ["branch"], name="one"),
        helper.make_node("Mul", ["input", "two"], ["other"], name="other"),
        helper.make_node("Add", ["branch", "other"], ["sum"], name="sum"),
        helper.make_node("Transpose", ["sum"], ["turned"], name="turned"),
        helper.make_node("Transpose", ["turned"], ["back"], name="back"),
        helper.make_node("Add", ["branch", "two"], ["shifted"], name="shifted"),
        helper.make_node("Mul", ["shifted", "zero"], ["nothing"], name="nothing"),
        helper.make_node("Add", ["back", "nothing"], ["after"], name="after"),
        helper.make_node(norm, ["after", *(["one", "zero"] if norm != "Abs" else [])], ["fc_pred"], name="norm"),
    ]
    weights = {"one and a half": [1.5, 1.5], "two": [2.0, 2.0], "one": [1.0, 1.0], "zero": [0.0, 0.0]}
    return graph_model(nodes, {name: np.array(value, np.float32) for name, value in weights.items()}, ["batch", 2])


def types_of(model: onnx.ModelProto) -> dict[str, int]:
    tensors = shape_inference.infer_shapes(model).graph.value_info
    return {tensor.name: tensor.type.tensor_type.elem_type for tensor in tensors}


def test_a_transformers_residual_sums_stay_in_float32():
    # 45,000 + 60,000 is beyond 65,504: the mean of 105,000 and 0 is taken away, and the rest divided by its deviation
    half = to_half(residual_graph("LayerNormalization"))
    found = ReferenceEvaluator(half).run(None, {"input": np.array([[30000.0, 0.0]], np.float32)})[0]
    assert found.tolist() == [[1, -1]]
    types = types_of(half)
    assert {name for name, found in types.items() if found == TensorProto.FLOAT and "__" not in name} == {
        *("sum", "turned", "back", "after"),
    }


def test_sums_without_layer_normalization_are_half():
    half = to_half(residual_graph("Abs"))
    types = types_of(half)
    assert {types[name] for name in ("sum", "turned", "back", "after")} == {TensorProto.FLOAT16}


@pytest.mark.slow
def test_residual_sums_beyond_half_precision_keep_a_vits_embeddings(tmp_path):
    # ONNX Runtime's CPU kernels do not round between the nodes, and overflow nowhere; onnx's own do as the file says.
    settings = network_settings(backbone="timm/test_vit", pooling="class", feat_dim=None)
    torch.manual_seed(0)
    network = build_embedder(**settings).eval()
    with torch.no_grad():
        for name, weights in network.named_parameters():
            if name.endswith("mlp.fc2.weight"):
                weights.mul_(600_000)  # a block gives up to 56,000, and all together up to 129,000
    contract = contract_of(settings | {"feat_dim": network.embedding_size})
    export_onnx(network, tmp_path / "vit.onnx", contract=contract, settings=settings, opset=18, overwrite=False)
    half = to_half(read_onnx(tmp_path / "vit.onnx")[0])
    with torch.no_grad():
        expected = network(images(4)).numpy()
    found = ReferenceEvaluator(half).run(None, {"input": images(4).numpy()})[0]
    assert parity(expected, found).worst_cosine > 0.99999
    products = {name for node in half.graph.node if node.op_type == "MatMul" for name in node.input}
    assert not any(name.endswith("__float") for name in products)


def test_numbers_that_half_precision_does_not_hold_stay_in_float32():
    # 2 x 50,000 = 100,000 is infinite in half precision, whose largest number is 65,504; 0.001 x that is 100 again
    model = graph_model(
        [
            helper.make_node("Mul", ["input", "up"], ["large"], name="up"),
            helper.make_node("Mul", ["large", "down"], ["small"], name="down"),
            helper.make_node("Mul", ["small", "one"], ["fc_pred"], name="last"),
        ],
        {"up": np.float32([50_000]), "down": np.float32([0.001]), "one": np.float32([1])},
        ["batch", 2],
    )
    pixels = np.float32([[2, 1]])
    with np.errstate(over="ignore"):
        assert np.isinf(ReferenceEvaluator(to_half(model)).run(None, {"input": pixels})[0][0, 0])
    found = beyond_half(model, [pixels])
    assert found == {"large": 100_000}
    half = to_half(model, large=found)
    np.testing.assert_allclose(ReferenceEvaluator(half).run(None, {"input": pixels})[0], [[100, 50]], rtol=1e-3)
    assert {types_of(half)[name] for name in ("large", "small")} == {TensorProto.FLOAT}
    assert beyond_half(model, [pixels / 4]) == {}


def test_a_graph_with_branches_is_refused():
    branch = helper.make_graph(
        [helper.make_node("Identity", ["input"], ["inner"], name="same")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner", TensorProto.FLOAT, ["batch", 2])],
    )
    node = helper.make_node("If", ["yes"], ["fc_pred"], name="choose", then_branch=branch, else_branch=branch)
    with pytest.raises(ArtifactError) as caught:
        to_half(graph_model([node], {"yes": np.array(True)}, ["batch", 2]))
    assert str(caught.value) == "FP16: node choose (If) has a graph of its own\n  want: no branch, no loop"


def test_the_conversion_is_the_same_every_time(plain):
    model = read_onnx(plain[0])[0]
    assert to_half(model).SerializeToString() == to_half(model).SerializeToString()
