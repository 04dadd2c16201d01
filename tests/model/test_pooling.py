"""Pooling by the class token, the mean and the generalized mean: the formula, its gradient, its place."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reid.contract import Contract
from reid.deploy.half import to_half
from reid.errors import SpecError
from reid.model.backbones import class_token, feature_map
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import Embedder, build_embedder
from reid.model.pooling import GeneralizedMeanPooling, MeanPooling
from reid.training.schedule import parameter_groups
from tests.networks import network_settings

CONTRACT = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16)


def build(**changes: Any) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(**network_settings(**changes)).eval()


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def test_the_generalized_mean_by_hand() -> None:
    # ((1 + 8 + 27 + 0) / 4)^(1/3), where -5 counts as 1e-6; of the second channel, four times 2 is 2
    maps = torch.tensor([[[[1.0, 2.0], [3.0, -5.0]], [[2.0, 2.0], [2.0, 2.0]]]])
    torch.testing.assert_close(GeneralizedMeanPooling()(maps), torch.tensor([[9 ** (1 / 3), 2.0]]))


@pytest.mark.parametrize("power", [1.0, 2.5, 6.0])
def test_the_generalized_mean_is_the_formula_for_every_power_and_so_is_its_gradient(power: float) -> None:
    pool, maps = GeneralizedMeanPooling(), images().reshape(3, 8, 48, 16)
    nn.init.constant_(pool.power, power)
    pooled = pool(maps)
    exact = np.maximum(maps.double().numpy(), 1e-6).reshape(3, 8, -1)
    wanted = (exact**power).mean(axis=2) ** (1 / power)
    np.testing.assert_allclose(pooled.detach().numpy(), wanted, rtol=1e-5)  # float32 powers
    pooled.sum().backward()
    # d/dp of exp(log(mean x^p) / p)
    slope = (exact**power * np.log(exact)).mean(axis=2) / (exact**power).mean(axis=2) / power
    slope = wanted * (slope - np.log((exact**power).mean(axis=2)) / power**2)
    assert pool.power.grad is not None
    np.testing.assert_allclose(pool.power.grad.numpy(), [slope.sum()], rtol=1e-4)


def test_a_half_precision_map_is_pooled_in_float32() -> None:
    maps = torch.full((1, 2, 2, 2), 60.0, dtype=torch.float16)  # 60^3 is beyond float16
    pooled = GeneralizedMeanPooling()(maps)
    assert pooled.dtype == torch.float32
    torch.testing.assert_close(pooled, torch.full((1, 2), 60.0))


def test_under_autocast_the_power_is_computed_in_float32() -> None:
    network = build(pooling="gem").train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        maps = feature_map(network.base, images())
        features, _ = network(images())
    wanted = network.reduction(GeneralizedMeanPooling()(maps.float()))
    assert features.dtype == torch.float32
    torch.testing.assert_close(features, wanted, rtol=0.05, atol=0.05)  # BatchNorm saw the batch twice


@pytest.mark.parametrize(("backbone", "resolved"), [("timm/test_resnet", "mean"), ("timm/test_vit", "class")])
def test_auto_is_the_class_token_if_there_is_one_and_the_settings_say_which(backbone: str, resolved: str) -> None:
    network = build(backbone=backbone, pooling="auto")
    assert network.settings["pooling"] == resolved
    assert build_embedder(**network.settings).state_dict().keys() == network.state_dict().keys()


def test_the_class_token_goes_through_reduction_and_neck() -> None:
    network = build(backbone="timm/test_vit", pooling="class", neck_feat="before")
    tokens = network.base.forward_features(images())  # type: ignore[operator]
    assert torch.equal(class_token(network.base, images()), tokens[:, 0])
    assert torch.equal(network(images()), network.reduction(tokens[:, 0]))
    mean = build(backbone="timm/test_vit", pooling="mean", neck_feat="before")
    torch.testing.assert_close(mean(images()), network.reduction(tokens[:, 1:].mean(dim=1)))


@pytest.mark.parametrize(
    ("pooling", "message"),
    [
        ("class", "model.pooling: class, but timm/test_resnet has no class token\n  want: auto, mean or gem"),
        ("max", "model.pooling: found 'max'\n  want: auto, class, mean, gem"),
    ],
)
def test_a_pooling_that_the_network_does_not_have_is_an_error(pooling: str, message: str) -> None:
    with pytest.raises(SpecError) as error:
        build(pooling=pooling)
    assert str(error.value) == message


def test_the_mean_adds_no_tensor_and_the_power_one() -> None:
    assert isinstance(build().pool, MeanPooling)
    assert set(build(pooling="gem").state_dict()) - set(build().state_dict()) == {"pool.power"}


def test_the_learned_power_has_a_group_of_its_own_without_decay() -> None:
    groups = parameter_groups(
        build(pooling="gem"),
        base_lr=0.1,
        weight_decay=5e-4,
        bias_lr_factor=2,
        weight_decay_bias=1e-4,
        large_fc_lr=False,
    )
    assert [group["name"] for group in groups] == ["weights", "biases", "powers"]
    assert (len(groups[2]["params"]), groups[2]["lr"], groups[2]["weight_decay"]) == (1, 0.1, 0.0)


def test_a_checkpoint_keeps_the_learned_power(tmp_path: Path) -> None:
    network, path = build(pooling="gem"), tmp_path / "m.pth"
    nn.init.constant_(network.pool.power, 4.5)  # type: ignore[arg-type]
    save_model(path, network, contract=CONTRACT, persons=range(5))
    loaded = load_model(path).network
    assert loaded.settings["pooling"] == "gem"
    assert loaded.pool.power.tolist() == [4.5]  # type: ignore[operator]
    torch.testing.assert_close(loaded(images()), network(images()))  # channels last sums in another order


def test_an_older_checkpoint_of_a_vit_still_takes_the_mean_of_its_patches(tmp_path: Path) -> None:
    network, path = build(backbone="timm/test_vit", pooling="mean"), tmp_path / "m.pth"
    save_model(path, network, contract=CONTRACT, persons=range(5))
    content = torch.load(path, weights_only=True)
    del content["reid"]["model"]["pooling"]
    torch.save(content, path)
    assert torch.equal(load_model(path).network(images()), network(images()))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes", [{"pooling": "gem", "with_flip_feature": True}, {"backbone": "timm/test_vit", "pooling": "class"}]
)
def test_gem_and_the_class_token_export_to_onnx_for_any_batch(changes: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = build(**changes)
    torch.onnx.export(
        network, (images(2),), tmp_path / "model.onnx", dynamo=True, input_names=["input"], output_names=["fc_pred"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": images(5).numpy()})[0]
    with torch.inference_mode():
        expected = network(images(5)).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)  # float32 through another runtime's kernels


@pytest.mark.slow
def test_in_half_precision_the_powers_of_gem_do_not_overflow(tmp_path: Path) -> None:
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    network = build(pooling="gem", neck="", feat_dim=None)
    nn.init.constant_(network.pool.power, 6.0)  # type: ignore[arg-type]
    loud = images() * 20  # features of up to 8, whose sixth power is beyond float16
    torch.onnx.export(network, (loud,), tmp_path / "m.onnx", dynamo=True, input_names=["input"], verbose=False)
    half = to_half(onnx.load(tmp_path / "m.onnx")).SerializeToString()
    found = onnxruntime.InferenceSession(half, providers=["CPUExecutionProvider"]).run(None, {"input": loud.numpy()})[0]
    expected = network(loud).detach().numpy()
    assert expected.max() > 65504 ** (1 / 6)
    np.testing.assert_allclose(found, expected, atol=0.005 * expected.max())  # float16 before the pooling
