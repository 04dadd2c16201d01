"""IBN-a: the formula, the paper's details, and what becomes of the layer in half precision and in ONNX."""

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel
from reid.deploy.onnx_export import onnx_bytes
from reid.model.backbones import feature_map
from reid.model.embedder import build_embedder
from reid.model.ibn import IBN, IBN_RESNETS
from tests.exporting import contract_of
from tests.networks import network_settings


def drawn(channels: int = 6) -> IBN:
    torch.manual_seed(1)
    layer = IBN(channels)
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, 0.5, 2.0)
    return layer


def maps(*shape: int) -> Tensor:
    return 3 + 2 * torch.randn(shape, generator=torch.Generator().manual_seed(1))


def test_half_of_the_channels_is_normalised_in_each_image_and_half_over_the_batch() -> None:
    layer, values = drawn(), maps(4, 6, 5, 3)
    found = layer(values)
    for channel in range(6):
        side, number = (layer.IN, channel) if channel < 3 else (layer.BN, channel - 3)
        for image in range(4):
            of = values[image, channel] if channel < 3 else values[:, channel]
            normal = (values[image, channel] - of.mean()) / (of.var(correction=0) + 1e-5).sqrt()
            expected = normal * side.weight[number] + side.bias[number]
            torch.testing.assert_close(found[image, channel], expected, rtol=1e-5, atol=1e-5)  # float32 sums


def test_brightness_and_contrast_of_an_image_do_not_reach_the_first_half() -> None:
    layer, values = drawn().eval(), maps(2, 6, 5, 3)
    found, brighter = layer(values), layer(3 * values + 5)
    torch.testing.assert_close(found[:, :3], brighter[:, :3], rtol=1e-4, atol=1e-4)  # but for epsilon
    assert (found - brighter)[:, 3:].abs().max() > 1


@pytest.mark.parametrize("backbone", IBN_RESNETS)
def test_three_stages_have_it_behind_their_first_convolutions_and_nothing_else_has(backbone: str) -> None:
    with torch.device("meta"):
        base = build_embedder(**network_settings(backbone=backbone)).base
    found = [name for name, module in base.named_modules() if isinstance(module, IBN)]
    blocks = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(len(getattr(base, f"layer{stage}")))]
    assert found == [f"{block}.bn1" for block in blocks]
    inner = base.layer3[0].bn1  # type: ignore[index]
    assert (inner.IN.num_features, inner.BN.num_features) == (128, 128)
    assert {"layer1.0.bn1.IN.weight", "layer1.0.bn1.BN.running_var"} < set(base.state_dict())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_in_half_precision_it_trains_near_float32(dtype: torch.dtype, layout: torch.memory_format) -> None:
    layer, values = drawn(), maps(4, 6, 5, 3)
    expected = layer(values)
    half = values.to(dtype).contiguous(memory_format=layout).requires_grad_()
    found = layer(half)
    found.float().sum().backward()
    assert (found.dtype, half.grad is not None) == (dtype, True)
    torch.testing.assert_close(found.float(), expected, rtol=0.05, atol=0.05)  # bfloat16 has 8 bits


class Tiny(nn.Module):
    """Images -> the mean of an IBN's map, 6 wide."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 6, 3, stride=2), drawn()

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.norm(self.conv(images)).relu().mean(dim=(2, 3))
        return pooled


def test_in_onnx_it_is_one_operator_kept_in_float32() -> None:
    network, images = Tiny().eval(), maps(3, 3, 64, 32)
    contract = contract_of(network_settings(feat_dim=6))
    content = onnx_bytes(network, where=Path("m"), contract=contract, settings={}, opset=18)
    with torch.no_grad():
        expected = network(images).numpy()
    np.testing.assert_allclose(OnnxModel(content=content)(images.numpy()), expected, rtol=1e-4, atol=1e-5)
    half = to_half(onnx.load_model_from_string(content))
    assert "InstanceNormalization" in [node.op_type for node in half.graph.node]
    found = OnnxModel(content=half.SerializeToString())(images.numpy())
    np.testing.assert_allclose(found, expected, rtol=0.01, atol=0.01)  # float16 has 11 bits


@pytest.mark.slow
def test_a_resnet_ibn_a_is_one_graph_for_torch_compile() -> None:
    base = build_embedder(**network_settings(backbone="resnet_18_ibn_a")).base.train()
    compiled = torch.compile(lambda images: feature_map(base, images), fullgraph=True, backend="aot_eager")
    assert compiled(maps(2, 3, 64, 32)).shape == (2, 512, 4, 2)
