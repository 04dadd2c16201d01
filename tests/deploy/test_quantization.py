import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from reid.data.market1501 import PersonImage, Split
from reid.deploy.calibration import choose_rows, folder_images, largest_values
from reid.deploy.float_layers import _counts, quantize_with_search
from reid.deploy.onnx import OnnxModel, read_onnx
from reid.deploy.quantization import find_layers, layers_of, quantize, quantized_tensors, with_pairs
from reid.errors import DatasetError, SpecError
from tests.exporting import contract_of
from tests.networks import network_settings
from tests.small_market import write_image


def noise(count: int, *, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 64, 32), np.float32)


@pytest.fixture(scope="module")
def network(plain):
    return read_onnx(plain[0])[0]


def test_a_layer_by_hand():
    # x = [1, -2] with a largest value of 2: scale 2/127, so 1 is 63.5 steps -> 64, and -2 is -127 steps.
    # The weights' first column [1, 0.25] has the scale 1/127, so it is 127 and 32 steps (31.75); the second is 0.
    # Their product is 64 * 2/127 * 1 - 2 * 32/127 = 64/127, and 1 - 0.5 without rounding.
    weights = np.array([[1, 0], [0.25, 0]], np.float32)
    port = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["input", "w.weight"], ["fc_pred"], name="product")],
        "one",
        [port("input", TensorProto.FLOAT, ["batch", 2])],
        [port("fc_pred", TensorProto.FLOAT, ["batch", 2])],
        [numpy_helper.from_array(weights, "w.weight")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 19)], ir_version=9)
    x = np.array([[1, -2]], np.float32)
    assert largest_values(model, quantized_tensors(model), [x, x / 2]) == {"input": 2}
    made = with_pairs(model, {"input": 2}, keep=[], data_type="INT8")
    onnx.checker.check_model(made, full_check=True)
    (found,) = ReferenceEvaluator(made).run(None, {"input": x})
    assert found == pytest.approx(np.array([[64 / 127, 0]]), abs=1e-6)


def test_a_layer_whose_weights_the_exporter_renamed_is_named_by_its_bias():
    # The second and the third layer have equal biases, which the exporter writes once.
    make = helper.make_node
    nodes = [
        make("MatMul", ["input", "val_1"], ["a"], name="first"),
        make("Add", ["a", "block.qkv.bias"], ["b"], name="bias"),
        make("MatMul", ["b", "val_2"], ["c"], name="second"),
        make("Add", ["block.fc.bias", "c"], ["d"], name="bias 2"),
        make("MatMul", ["d", "val_3"], ["e"], name="third"),
        make("Add", ["e", "block.fc.bias"], ["fc_pred"], name="bias 3"),
    ]
    weights = [numpy_helper.from_array(np.eye(2, dtype=np.float32) * at, f"val_{at}") for at in (1, 2, 3)]
    biases = [numpy_helper.from_array(np.ones(2, np.float32), f"block.{name}.bias") for name in ("qkv", "fc")]
    model = helper.make_model(helper.make_graph(nodes, "three", [], [], weights + biases))
    assert [layer.name for layer in layers_of(model)] == ["block.qkv", "second", "third"]


def test_pairs_are_symmetric_with_a_scale_for_each_channel_and_the_embeddings_stay(network, plain):
    made = quantize(network, [noise(4), noise(4, seed=1)])
    values = {weight.name: numpy_helper.to_array(weight) for weight in made.graph.initializer}
    pairs = [node for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert all(values[node.input[2]].dtype == np.int8 and not values[node.input[2]].any() for node in pairs)
    assert values["base.conv1.0.weight_scale"].shape == (values["base.conv1.0.weight_quantized"].shape[0],)
    assert not any(value.dtype in (np.uint8, np.int32) for value in values.values())
    assert len(made.SerializeToString()) < 0.5 * len(network.SerializeToString())
    opened, whole = OnnxModel(content=made.SerializeToString(), threads=1), OnnxModel(plain[0], threads=1)
    found, wanted = opened(noise(4)), whole(noise(4))
    cosines = (found * wanted).sum(1) / np.linalg.norm(found, axis=1) / np.linalg.norm(wanted, axis=1)
    assert (opened.data_type, bool(cosines.min() > 0.97)) == ("INT8", True)


def test_a_layer_that_is_kept_keeps_its_weights_and_all_kept_is_the_network_itself(network, plain):
    names = [layer.name for layer in layers_of(network)]
    made = quantize(network, [noise(2)], keep=["base.conv1.0"])
    assert "base.conv1.0.weight" in {weight.name for weight in made.graph.initializer}
    whole = quantize(network, [noise(2)], keep=names)
    assert OnnxModel(content=whole.SerializeToString(), threads=1)(noise(2)) == pytest.approx(
        OnnxModel(plain[0], threads=1)(noise(2))
    )


def test_layers_are_found_by_either_name_and_an_unknown_one_is_refused(network):
    first = layers_of(network)[0]
    assert find_layers(network, [first.node, first.name], field="f") == [first.name, first.name]
    with pytest.raises(SpecError) as caught:
        find_layers(network, ["conv9"], field="export.quantization.float_layers")
    assert str(caught.value).startswith(
        "export.quantization.float_layers: conv9: no such layer\n  want: one of base.conv1.0, base.conv1.3"
    )


def test_fp8_needs_its_opset(network):
    with pytest.raises(SpecError) as caught:
        quantize(network, [noise(2)], data_type="FP8")
    assert str(caught.value) == ("export.opset: 18: FP8 begins with opset 19\n  want: export.opset=19 or above")


def test_the_search_keeps_the_costliest_layers_first_and_stops_when_it_is_close_enough(network):
    batches, others = [noise(4)], [noise(4, seed=1)]
    options = {"data_type": "INT8", "max_kept": 3}
    easy = quantize_with_search(network, batches, others, min_cosine=0.0, **options)
    assert (easy.kept, easy.cost, easy.images, easy.held_aside) == ((), {}, 4, 4)
    hard = quantize_with_search(network, batches, others, min_cosine=1.0, **options)
    assert list(hard.cost.values()) == sorted(hard.cost.values(), reverse=True)
    assert hard.kept == tuple(list(hard.cost)[: len(hard.kept)])
    assert 0 < len(hard.kept) <= 3
    assert hard.worst_cosine > easy.worst_cosine


def test_more_and_more_layers_are_kept():
    assert _counts(12) == [1, 2, 3, 4, 6, 8, 12]
    assert (_counts(1), _counts(0)) == ([1], [])


def test_calibration_rows_take_every_person_once_and_then_its_other_camera(tmp_path):
    # person 1 has two cameras and 5 images, persons 2 and 3 one camera each
    who = [(1, 1)] * 4 + [(1, 2), (2, 1), (2, 1), (3, 1), (3, 1)]
    split = Split(tmp_path, tuple(PersonImage(f"{row}.jpg", *pair) for row, pair in enumerate(who)))
    rows = choose_rows(split, 6, seed=0)
    assert rows == choose_rows(split, 6, seed=0)
    assert sorted(who[row][0] for row in rows[:3]) == [1, 2, 3]
    assert {who[row] for row in rows if who[row][0] == 1} == {(1, 1), (1, 2)}
    assert sorted(choose_rows(split, 99, seed=0)) == list(range(9))


def test_folders_of_calibration_images_have_to_be_there_and_hold_enough(tmp_path):
    contract = contract_of(network_settings())
    write_image(tmp_path / "a" / "1.jpg")
    write_image(tmp_path / "a" / "deep" / "2.jpg")
    assert folder_images([str(tmp_path / "a")], 2, contract=contract, field="f")[[0, 1]].shape == (2, 64, 32, 3)
    with pytest.raises(DatasetError) as caught:
        folder_images([str(tmp_path / "a")], 3, contract=contract, field="f")
    assert str(caught.value) == (
        f"f: 2 images in {tmp_path / 'a'}\n  want: 3 at least, which is "
        "gen_trt_engine.tensorrt.calibration.cal_batches x cal_batch_size"
    )
    with pytest.raises(DatasetError, match="no such folder"):
        folder_images([str(tmp_path / "b")], 1, contract=contract, field="f")


def test_calibration_without_an_image_is_refused(network):
    with pytest.raises(DatasetError, match="calibration: no image"):
        quantize(network, [])
