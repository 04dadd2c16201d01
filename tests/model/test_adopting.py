"""Checkpoints of other projects give the embeddings that those projects compute, or are refused with what differs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reid.contract import Contract
from reid.errors import ArtifactError
from reid.model.adopting import Adopted, adopt_checkpoint
from reid.model.backbones import feature_map
from reid.model.checkpoint import save_model
from reid.model.embedder import build_embedder
from tests import foreign_weights as foreign
from tests import reference_training as reference
from tests.networks import network_settings
from tests.reference_swin import tao_swin_embedding

RESNET_50 = {"backbone": "resnet_50", "feat_dim": None}
RESNET_18 = {"backbone": "resnet_18", "feat_dim": None}
SWIN = {"backbone": "swin_tiny_patch4_window7_224", "feat_dim": 16, "reduce_feat_dim": True}


def values(**changes: Any) -> dict[str, Any]:
    settings = network_settings(**changes)
    return {name: value for name, value in settings.items() if name not in ("stem_relu", "num_classes")}


def adopt(path: Path, content: Any, *, stem_relu: bool | None = None, **changes: Any) -> Adopted:
    torch.save(content, path)
    return adopt_checkpoint(path, stem_relu=stem_relu, **values(**changes))


def refusal(path: Path, content: Any, **changes: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        adopt(path, content, **changes)
    return str(caught.value)


def images() -> Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def apart(some: Tensor, others: Tensor) -> float:
    """The largest difference of a coordinate, over the largest coordinate."""
    return float((some - others).abs().max() / others.abs().max())


ROUNDING = 1e-4
"""Fifty layers of float32, summed in another order; other strides, stems and necks are 100 times as far."""


def embedded(adopted: Adopted) -> Tensor:
    with torch.inference_mode():
        found: Tensor = adopted.network(images())
    return found


def test_taos_resnet_50_embeds_as_in_tao(tmp_path: Path) -> None:
    state = foreign.tao(width=32, persons=7)
    content = {"state_dict": state | {"center_criterion.centers": torch.zeros(7, 32)}, "epoch": 119}
    adopted = adopt(tmp_path / "m.tlt", content, backbone="resnet_50", feat_dim=32)
    # 53 convolutions, 53 normalisations of 4 tensors, a reduction of 2, a neck of 4
    assert (adopted.source, adopted.persons, adopted.tensors) == ("TAO", 7, 53 + 4 * 53 + 2 + 4)
    expected = reference.tao_resnet_embedding(images(), state, stage_depths=foreign.RESNET_50, last_stride=1)
    assert apart(embedded(adopted), expected) < ROUNDING
    assert torch.equal(adopted.network.classifier.weight, state["model.classifier.weight"])
    assert not adopted.network.settings["stem_relu"]
    with_relu = adopt(tmp_path / "m.tlt", content, stem_relu=True, backbone="resnet_50", feat_dim=32)
    assert apart(embedded(with_relu), expected) > 100 * ROUNDING


@pytest.mark.slow
@pytest.mark.parametrize(("source", "prefix", "semantic_weight"), [("TAO", "model.", 1.0), ("SOLIDER", "", 0.2)])
def test_taos_and_solider_reids_swin_embed_as_there(
    tmp_path: Path, source: str, prefix: str, semantic_weight: float
) -> None:
    state = foreign.tao_swin(width=16, persons=7)
    content = {prefix + name.removeprefix("model."): tensor for name, tensor in state.items()}
    adopted = adopt(tmp_path / "m.pth", content, **SWIN, semantic_weight=semantic_weight)
    assert (adopted.source, adopted.persons) == (source, 7)
    expected = tao_swin_embedding(images()[0], state, stage_depths=foreign.SWIN_TINY, semantic_weight=semantic_weight)
    assert apart(embedded(adopted)[0], expected) < ROUNDING


def test_a_swin_is_told_from_its_tensors(tmp_path: Path) -> None:
    content, path = {"state_dict": foreign.tao_swin(width=16, persons=7)}, tmp_path / "m.tlt"
    for changes, fitting in (
        (RESNET_50, "model.backbone=swin_tiny_patch4_window7_224"),
        (SWIN | {"reduce_feat_dim": False}, "model.feat_dim=16 model.reduce_feat_dim=true"),
        (SWIN | {"semantic_weight": -1.0}, "model.semantic_weight=1.0"),
    ):
        assert refusal(path, content, **changes).splitlines()[-1] == f"  want: {fitting}, as the file has it"


@pytest.mark.parametrize("neck_feat", ["after", "before"])
@pytest.mark.parametrize("last_stride", [1, 2])
def test_the_strong_baselines_resnet_50_embeds_as_there(tmp_path: Path, neck_feat: str, last_stride: int) -> None:
    state = foreign.strong_baseline(persons=7)
    adopted = adopt(tmp_path / "m.pth", state, **RESNET_50, neck_feat=neck_feat, last_stride=last_stride)
    assert (adopted.source, adopted.persons, adopted.tensors) == ("strong baseline", 7, 53 + 4 * 53 + 4)
    for side in ("after", "before"):
        expected = reference.strong_baseline_embedding(
            images(), state, stage_depths=foreign.RESNET_50, last_stride=last_stride, neck_feat=side
        )
        assert (apart(embedded(adopted), expected) < ROUNDING) is (side == neck_feat)


@pytest.mark.parametrize("stem_pool", ["ceil", "padded"])
@pytest.mark.parametrize("embedding_dim", [0, 16])
def test_fast_reids_resnet_18_embeds_as_there(tmp_path: Path, stem_pool: str, embedding_dim: int) -> None:
    state = foreign.fast_reid(persons=7, embedding_dim=embedding_dim)
    pixels = {"pixel_mean": torch.full((1, 3, 1, 1), 127.5), "pixel_std": torch.full((1, 3, 1, 1), 51.0)}
    changes = {"backbone": "resnet_18", "feat_dim": embedding_dim or None, "stem_pool": stem_pool}
    adopted = adopt(tmp_path / "m.pth", {"model": state | pixels, "iteration": 8}, **changes)
    assert (adopted.source, adopted.persons) == ("fast-reid", 7)
    assert (adopted.mean, adopted.std) == ((0.5,) * 3, (pytest.approx(0.2),) * 3)
    for pool in ("ceil", "padded"):
        expected = reference.fast_reid_embedding(
            images(), state, stage_depths=foreign.RESNET_18, last_stride=1, stem_pool=pool
        )
        assert (apart(embedded(adopted), expected) < ROUNDING) is (pool == stem_pool)


@pytest.mark.parametrize("name", ["heads.pool_layer.p", "gap.p"])
def test_fast_reids_generalized_mean_keeps_its_learned_power(tmp_path: Path, name: str) -> None:
    state, path = foreign.fast_reid(persons=7) | {name: torch.tensor([4.5])}, tmp_path / "m.pth"
    assert refusal(path, {"model": state}, **RESNET_18).splitlines()[1:] == [
        f"  unexpected: {name}",
        "  want: model.pooling=gem, as the file has it",
    ]
    adopted = adopt(path, {"model": state}, **RESNET_18, stem_pool="ceil", pooling="gem", neck_feat="before")
    maps = feature_map(adopted.network.base, images())
    # fast-reid: clamp(min=1e-6).pow(p), adaptive_avg_pool2d to 1 x 1, pow(1 / p)
    expected = (maps.clamp(min=1e-6) ** 4.5).flatten(2).sum(2).div(maps.shape[2] * maps.shape[3]) ** (1 / 4.5)
    assert apart(embedded(adopted), expected.detach()) < ROUNDING


def test_a_file_without_a_power_does_not_fit_the_generalized_mean(tmp_path: Path) -> None:
    found = refusal(tmp_path / "m.pth", {"model": foreign.fast_reid(persons=7)}, **RESNET_18, pooling="gem")
    assert found.splitlines()[1:] == ["  missing: pool.power", "  want: model.pooling=mean, as the file has it"]


IBN_18 = {"backbone": "resnet_18_ibn_a", "feat_dim": None}


@pytest.mark.parametrize("last_stride", [1, 2])
def test_the_strong_baselines_resnet_50_ibn_a_embeds_as_there(tmp_path: Path, last_stride: int) -> None:
    state = foreign.strong_baseline(persons=7, ibn=True)
    adopted = adopt(tmp_path / "m.pth", state, backbone="resnet_50_ibn_a", feat_dim=None, last_stride=last_stride)
    # 13 of 53 normalisations are halves: two tensors more each
    assert (adopted.source, adopted.persons, adopted.tensors) == ("strong baseline", 7, 53 + 4 * 53 + 2 * 13 + 4)
    assert adopted.network.settings["stem_relu"]
    expected = reference.strong_baseline_embedding(
        images(), state, stage_depths=foreign.RESNET_50, last_stride=last_stride, neck_feat="after"
    )
    assert apart(embedded(adopted), expected) < ROUNDING


def test_fast_reids_and_ibn_nets_resnet_ibn_a_embed_as_there(tmp_path: Path) -> None:
    state = foreign.fast_reid(persons=7, ibn=True)
    adopted = adopt(tmp_path / "m.pth", {"model": state}, **IBN_18, stem_pool="ceil")
    assert (adopted.source, adopted.persons) == ("fast-reid", 7)
    expected = reference.fast_reid_embedding(
        images(), state, stage_depths=foreign.RESNET_18, last_stride=1, stem_pool="ceil"
    )
    assert apart(embedded(adopted), expected) < ROUNDING
    of_imagenet = foreign.ibn_net()
    adopted = adopt(tmp_path / "i.pth", of_imagenet, **IBN_18, last_stride=2, neck="")
    assert (adopted.source, adopted.persons) == ("IBN-Net", 0)
    pooled = reference.resnet_map(images(), of_imagenet, stage_depths=foreign.RESNET_18, last_stride=2).mean((2, 3))
    assert apart(embedded(adopted), pooled) < ROUNDING


def test_ibn_a_is_told_from_its_tensors_beside_what_no_network_here_has(tmp_path: Path) -> None:
    state, path = foreign.fast_reid(persons=7, ibn=True), tmp_path / "m.pth"
    want = "  want: model.backbone=resnet_18_ibn_a, as the file has it"
    assert refusal(path, {"model": state}, **RESNET_18, stem_pool="ceil").splitlines()[-1] == want
    state["backbone.NL_2.0.theta.weight"] = torch.ones(1)
    assert refusal(path, {"model": state}, **RESNET_18, stem_pool="ceil").splitlines()[-2:] == [
        "  it has non-local blocks, which the spec's network does not have",
        want,
    ]
    plain = foreign.fast_reid(persons=7)
    assert refusal(path, {"model": plain}, **IBN_18, stem_pool="ceil").splitlines()[-1] == (
        "  want: model.backbone=resnet_18, as the file has it"
    )


@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchreids_resnet_50_embeds_as_there(tmp_path: Path, prefix: str) -> None:
    state = foreign.torchreid(persons=7)
    content = {"state_dict": {prefix + name: tensor for name, tensor in state.items()}, "epoch": 60, "rank1": 0.9}
    adopted = adopt(tmp_path / "model.pth.tar-60", content, **RESNET_50, neck="", last_stride=2)
    assert (adopted.source, adopted.persons) == ("torchreid", 7)
    expected = reference.torchreid_embedding(images(), state, stage_depths=foreign.RESNET_50, last_stride=2)
    assert apart(embedded(adopted), expected) < ROUNDING


@pytest.mark.parametrize(
    ("changed", "persons"),
    [
        (lambda state: state.pop("classifier.weight"), 0),
        (lambda state: state.update({"classifier.weight": torch.ones(3, 5)}), 0),
        (lambda state: state.update({"classifier.bias": torch.ones(7)}), 7),
    ],
)
def test_a_classifier_may_be_missing_or_another(
    tmp_path: Path, changed: Callable[[dict[str, Tensor]], Any], persons: int
) -> None:
    state = small()
    changed(state)
    adopted = adopt(tmp_path / "m.pth", state, feat_dim=None)
    assert adopted.persons == persons
    assert bool(adopted.network.classifier.weight.any()) is bool(persons)


def small(**changes: Any) -> dict[str, Tensor]:
    """timm's smallest ResNet under the strong baseline's names, seven persons."""
    torch.manual_seed(0)
    settings: dict[str, Any] = {"feat_dim": None, "num_classes": 7} | changes
    return dict(build_embedder(**network_settings(**settings)).state_dict())


def test_a_tensor_that_is_missing_and_one_that_is_left_over_are_named(tmp_path: Path) -> None:
    state, path = small(), tmp_path / "m.pth"
    state["base.layer2.0.conv9.weight"] = state.pop("base.layer2.0.conv1.weight")
    assert refusal(path, state, feat_dim=None) == (
        f"{path}: weights of strong baseline, and not of the network that the spec describes\n"
        "  missing: base.layer2.0.conv1.weight\n"
        "  unexpected: base.layer2.0.conv9.weight\n"
        "  want: the weights of that network, or a spec of the file's"
    )


def test_a_reduction_that_the_spec_has_not_is_answered_with_its_field(tmp_path: Path) -> None:
    state, path = foreign.tao(width=32, persons=7), tmp_path / "m.pth"
    assert refusal(path, {"state_dict": state}, **RESNET_50) == (
        f"{path}: weights of TAO, and not of the network that the spec describes\n"
        "  unexpected: model.base.feature.weight, model.base.feature.bias\n"
        "  of another shape: bottleneck.weight (found (32,), want (2048,)), "
        "bottleneck.bias (found (32,), want (2048,)), bottleneck.running_mean (found (32,), want (2048,)) (4 in all)\n"
        "  want: model.feat_dim=32, as the file has it"
    )


@pytest.mark.parametrize(
    ("file", "spec", "fitting"),
    [
        ({}, {"feat_dim": 16}, "model.feat_dim=null"),
        ({"neck": ""}, {}, "model.neck="),
        ({}, {"neck": ""}, "model.neck=bnneck"),
        ({"feat_dim": 16}, {"feat_dim": 24, "neck": ""}, "model.feat_dim=16 model.neck=bnneck"),
    ],
)
def test_the_fields_of_the_spec_that_would_fit_are_named(
    tmp_path: Path, file: dict[str, Any], spec: dict[str, Any], fitting: str
) -> None:
    found = refusal(tmp_path / "m.pth", small(**file), **({"feat_dim": None} | spec))
    assert found.splitlines()[-1] == f"  want: {fitting}, as the file has it"


def test_another_backbone_and_grey_images_are_told_from_the_tensors(tmp_path: Path) -> None:
    state, path = foreign.fast_reid(persons=7), tmp_path / "m.pth"
    assert refusal(path, {"model": state}, **RESNET_50).splitlines()[-1] == (
        "  want: model.backbone=resnet_18, as the file has it"
    )
    state["backbone.conv1.weight"] = state["backbone.conv1.weight"].sum(dim=1, keepdim=True)
    assert refusal(path, {"model": state}, **RESNET_18).splitlines()[1:] == [
        "  of another shape: base.conv1.weight",
        "  want: model.input_channels=1, as the file has it",
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("backbone.NL_2.0.theta.weight", "non-local blocks"),
        ("backbone.layer1.1.IN.weight", "instance normalisation behind its blocks (IBN-b)"),
        ("backbone.layer1.0.se.fc.0.weight", "squeeze and excitation"),
    ],
)
def test_what_no_network_here_has_is_named(tmp_path: Path, name: str, part: str) -> None:
    path = tmp_path / "m.pth"
    state = foreign.fast_reid(persons=7) | {name: torch.ones(1)}
    assert refusal(path, {"model": state}, **RESNET_18, stem_pool="ceil") == (
        f"{path}: weights of fast-reid, and not of the network that the spec describes\n"
        f"  unexpected: {name}\n"
        f"  it has {part}, which the spec's network does not have"
    )


@pytest.mark.parametrize(
    ("depths", "called", "is_a"),
    [(foreign.RESNET_18, "resnet_18", "timm/resnet26"), (foreign.RESNET_50, "resnet_34", "resnet_50")],
)
def test_taos_resnet_18_and_34_are_of_bottlenecks_and_go_by_another_name(
    tmp_path: Path, depths: tuple[int, ...], called: str, is_a: str
) -> None:
    state, path = foreign.tao(width=16, persons=7, depths=depths), tmp_path / "m.tlt"
    assert refusal(path, {"state_dict": state}, backbone=called).splitlines()[-1] == (
        f"  want: model.backbone={is_a}, as the file has it"
    )
    adopted = adopt(path, {"state_dict": state}, backbone=is_a)
    expected = reference.tao_resnet_embedding(images(), state, stage_depths=depths, last_stride=1)
    assert apart(embedded(adopted), expected) < ROUNDING


def test_a_checkpoint_of_ours_needs_no_adopting(tmp_path: Path) -> None:
    path, network = tmp_path / "m.pth", build_embedder(**network_settings())
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16)
    save_model(path, network, contract=contract, persons=range(5))
    with pytest.raises(ArtifactError) as caught:
        adopt_checkpoint(path, stem_relu=None, **values())
    assert str(caught.value) == (
        f"{path}: a checkpoint of this project already\n  want: nothing; every task takes it as it is"
    )


def test_a_pickled_network_is_refused_and_not_run(tmp_path: Path) -> None:
    path = tmp_path / "m.pth"
    torch.save(build_embedder(**network_settings()), path)  # as older versions of ignite's ModelCheckpoint
    with pytest.raises(ArtifactError) as caught:
        adopt_checkpoint(path, stem_relu=None, **values())
    assert str(caught.value).startswith(f"{path}: needs code to be read, which may do anything: ")


@pytest.mark.parametrize("shape", [(), (5,), (4, 5, 6, 7, 8)])
def test_tensors_with_axes_that_no_network_has_are_an_error(tmp_path: Path, shape: tuple[int, ...]) -> None:
    content = {name: torch.ones(shape) for name in small()} | {"classifier.weight": torch.ones(shape)}
    assert refusal(tmp_path / "odd.pth", content, feat_dim=None).startswith(str(tmp_path / "odd.pth"))


def test_a_classifier_of_another_width_is_not_built(tmp_path: Path) -> None:
    """Two billion rows without a column take no byte in the file, and 100 GB in a network."""
    content = small() | {"classifier.weight": torch.ones(2_000_000_000, 0)}
    assert adopt(tmp_path / "wide.pth", content, feat_dim=None).persons == 0
