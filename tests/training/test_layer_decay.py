"""Layer-wise learning-rate decay: each layer's rate, the groups, and their way through the optimizer."""

from typing import Any

import pytest
import torch

from reid.model.embedder import Embedder, build_embedder
from reid.training.layer_decay import split_by_layer
from reid.training.schedule import build_optimizer, parameter_groups
from tests.networks import network_settings


def vit(**changes: Any) -> Embedder:
    """test_vit: 6 blocks."""
    torch.manual_seed(0)
    return build_embedder(**network_settings(backbone="timm/test_vit", pooling="class", **changes))


def grouped(network: Embedder) -> list[dict[str, Any]]:
    groups = parameter_groups(
        network, base_lr=0.1, weight_decay=5e-4, bias_lr_factor=2, weight_decay_bias=1e-4, large_fc_lr=False
    )
    return split_by_layer(groups, network, layer_decay=0.5)


def test_every_parameter_has_the_rate_of_its_layer() -> None:
    network = vit()
    names = {id(tensor): name for name, tensor in network.named_parameters()}
    found = {
        names[id(tensor)]: (group["lr"], group["weight_decay"])
        for group in grouped(network)
        for tensor in group["params"]
    }
    assert found.keys() == {name for name, tensor in network.named_parameters() if tensor.requires_grad}
    # layers 0 to 7: 0.1 x 0.5^(7 - layer), twice that for biases
    for name, layer in (
        ("base.cls_token", 0), ("base.pos_embed", 0), ("base.patch_embed.proj.weight", 0),
        ("base.blocks.0.norm1.weight", 1), ("base.blocks.5.mlp.fc2.weight", 6),
        ("base.norm.weight", 7), ("reduction.weight", 7), ("bottleneck.weight", 7), ("classifier.weight", 7),
    ):  # fmt: skip
        assert found[name] == (pytest.approx(0.1 * 0.5 ** (7 - layer)), 5e-4), name
    assert found["base.patch_embed.proj.bias"] == (pytest.approx(0.2 * 0.5**7), 1e-4)
    assert found["base.blocks.2.attn.qkv.bias"] == (pytest.approx(0.2 * 0.5**4), 1e-4)


def test_there_is_one_group_per_layer_and_kind_and_the_full_rate_comes_first() -> None:
    groups = grouped(vit())
    assert len(groups) == 2 * 8
    assert [group["name"] for group in groups[:2]] == ["weights of layer 7", "weights of layer 6"]
    assert groups[0]["lr"] == 0.1


@pytest.mark.parametrize("fused", [True, False])
def test_an_optimizer_steps_over_the_groups_fused_or_not_and_its_state_loads(fused: bool) -> None:
    network = vit()
    optimizer = build_optimizer("AdamW", grouped(network), 0.9, fused=fused)
    images = torch.randn(4, 3, 64, 32, generator=torch.Generator().manual_seed(1))
    sum(part.square().mean() for part in network.train()(images)).backward()
    before = {name: tensor.detach().clone() for name, tensor in network.named_parameters()}
    optimizer.step()
    # AdamW's first step is the learning rate in each coordinate with a gradient
    moved = {name: (tensor - before[name]).abs().median().item() for name, tensor in network.named_parameters()}
    assert moved["base.blocks.0.mlp.fc1.weight"] == pytest.approx(0.1 * 0.5**6, rel=0.01)
    assert moved["base.blocks.5.mlp.fc1.weight"] == pytest.approx(0.1 * 0.5, rel=0.01)
    again = build_optimizer("AdamW", grouped(network), 0.9, fused=fused)
    again.load_state_dict(optimizer.state_dict())
    assert [group["lr"] for group in again.param_groups] == [group["lr"] for group in optimizer.param_groups]
