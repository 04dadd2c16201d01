"""The network's head: reduction, neck, classifier, flip test, export."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from reid.errors import SpecError
from reid.model.backbones import feature_map
from reid.model.embedder import Embedder, build_embedder
from tests import reference_training as reference
from tests.networks import network_settings


def build(**changes: Any) -> Embedder:
    """A network whose BNNeck is not the identity, as after some training."""
    torch.manual_seed(0)
    network = build_embedder(**network_settings(**changes))
    if isinstance(network.bottleneck, nn.BatchNorm1d):
        network.bottleneck.running_mean.copy_(torch.randn(network.embedding_size))  # type: ignore[union-attr]
        network.bottleneck.running_var.copy_(torch.rand(network.embedding_size) + 0.5)  # type: ignore[union-attr]
    return network


def images(count: int = 4, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, 64, 32, generator=torch.Generator().manual_seed(1))


def test_training_gives_features_and_logits_and_evaluation_an_embedding() -> None:
    network = build(feat_dim=16, num_classes=7).train()
    features, logits = network(images())
    assert (features.shape, logits.shape) == ((4, 16), (4, 7))
    embedding = network.eval()(images())
    assert embedding.shape == (4, 16)


def test_the_embedding_is_the_features_before_or_after_the_neck() -> None:
    before, after = build(neck_feat="before").eval(), build(neck_feat="after").eval()
    after.load_state_dict(before.state_dict())
    features = before.features(images())
    assert torch.equal(before(images()), features)
    assert torch.equal(after(images()), after.bottleneck(features))
    assert not torch.equal(after(images()), features)


def test_the_logits_come_from_behind_the_neck() -> None:
    network = build().train()
    with torch.no_grad():
        network.bottleneck.weight.uniform_(0.5, 2)
    features, logits = network(images())
    scale, classifier = network.bottleneck.weight.tolist(), network.classifier.weight.tolist()
    wanted = reference.bnneck_logits(features.tolist(), scale, classifier)
    torch.testing.assert_close(logits, torch.tensor(wanted))  # float32 against float64: the usual 1.3e-6


def test_under_autocast_the_head_stays_in_float32() -> None:
    network = build(feat_dim=16, num_classes=7).train()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mapped = feature_map(network.base, images())
        features, logits = network(images())
    assert (mapped.dtype, features.dtype, logits.dtype) == (torch.bfloat16, torch.float32, torch.float32)
    rounded = features.bfloat16().float()
    assert not torch.equal(features, rounded)  # not rounded on the way


def test_the_neck_scales_but_does_not_shift_and_its_classifier_has_no_bias() -> None:
    network = build(num_classes=500)
    assert not network.bottleneck.bias.requires_grad
    assert network.bottleneck.weight.requires_grad
    assert torch.equal(network.bottleneck.weight, torch.ones(16))
    assert network.classifier.bias is None
    # the standard error of a standard deviation over 8,000 draws is 0.8 %
    assert network.classifier.weight.std().item() == pytest.approx(0.001, rel=0.05)


def test_without_a_neck_the_classifier_has_a_bias_and_takes_the_features() -> None:
    network = build(neck="").train()
    assert network.classifier.bias is not None
    features, logits = network(images())
    assert torch.equal(logits, network.classifier(features))
    network.eval()
    assert torch.equal(network(images()), network.features(images()))


@pytest.mark.parametrize("feat_dim", [None, 96])
def test_no_feat_dim_or_the_backbones_own_width_is_no_reduction(feat_dim: int | None) -> None:
    network = build(feat_dim=feat_dim)
    assert isinstance(network.reduction, nn.Identity)
    assert network.embedding_size == 96


def test_the_reduction_behind_the_pooling_is_the_one_by_one_convolution_before_it() -> None:
    network = build().eval()
    assert isinstance(network.reduction, nn.Linear)
    maps = feature_map(network.base, images())
    reduced = nn.functional.conv2d(maps, network.reduction.weight[:, :, None, None], network.reduction.bias)
    # the same sums in another order
    torch.testing.assert_close(network.features(images()), reduced.mean(dim=(2, 3)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("backbone", "depths"), [("resnet_50", (3, 4, 6, 3))])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_a_resnet_without_stem_relu_gives_taos_embedding(
    backbone: str, depths: tuple[int, ...], last_stride: int
) -> None:
    network = build(backbone=backbone, stem_relu=False, last_stride=last_stride).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):  # as after some training, so that the stem gives negative values
            nn.init.uniform_(module.bias, -0.1, 0.1)
            nn.init.uniform_(module.running_var, 0.8, 1.2)  # type: ignore[arg-type]
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state["model.base.feature.weight"] = state.pop("model.reduction.weight")[:, :, None, None]
    state["model.base.feature.bias"] = state.pop("model.reduction.bias")
    with torch.inference_mode():
        expected = reference.tao_resnet_embedding(images(2), state, stage_depths=depths, last_stride=last_stride)
        found = network(images(2))
    # fifty layers of float32, summed in another order
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)


def test_the_flip_test_adds_the_mirror_images_embedding() -> None:
    plain, flipping = build().eval(), build(with_flip_feature=True).eval()
    flipping.load_state_dict(plain.state_dict())
    mirrored = torch.tensor(np.ascontiguousarray(images().numpy()[..., ::-1]))
    torch.testing.assert_close(flipping(images()), plain(images()) + plain(mirrored))
    assert flipping.train()(images())[0].shape == (4, 16)


def test_dropout_before_the_classifier_thins_the_logits_in_training_only() -> None:
    network = build(neck="", dropout_rate=0.999).train()
    _, logits = network(images())
    torch.testing.assert_close(logits, network.classifier.bias.expand(4, 5))
    assert network.eval()(images()).abs().sum() > 0


def test_the_settings_are_build_embedders_own_values() -> None:
    network = build(feat_dim=24, neck_feat="before")
    assert network.settings == network_settings(feat_dim=24, neck_feat="before")
    assert build_embedder(**network.settings).embedding_size == 24


def test_reduce_feat_dim_is_swins_alone() -> None:
    assert [build(reduce_feat_dim=reduce).embedding_size for reduce in (True, False)] == [16, 16]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"neck": "bneck"}, "model.neck: found 'bneck'\n  want: 'bnneck' or ''"),
        ({"neck_feat": "behind"}, "model.neck_feat: found 'behind'\n  want: 'after' or 'before'"),
    ],
)
def test_an_unknown_neck_is_an_error(changes: dict[str, str], message: str) -> None:
    with pytest.raises(SpecError) as error:
        build(**changes)
    assert str(error.value) == message


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"with_flip_feature": True},
        {"backbone": "timm/test_vit"},
        {"backbone": "swin_tiny_patch4_window7_224", "reduce_feat_dim": True},
    ],
)
def test_the_network_exports_to_onnx_for_any_batch(changes: dict[str, Any], tmp_path: Path) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    network = build(**changes).eval()
    torch.onnx.export(
        network, (images(2),), tmp_path / "model.onnx", dynamo=True, input_names=["input"], output_names=["fc_pred"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), verbose=False,
    )  # fmt: skip
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    found = session.run(None, {"input": images(5).numpy()})[0]
    with torch.inference_mode():
        expected = network(images(5)).numpy()
    # float32 through another runtime's kernels
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)
