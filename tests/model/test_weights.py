"""Pretrained weights of every kind, made here from networks of our own, and what is refused."""

import logging
import socket
import time
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor

from reid.contract import Contract
from reid.errors import ArtifactError, SpecError
from reid.model.checkpoint import save_model
from reid.model.embedder import Embedder, build_embedder
from reid.model.weights import WeightsReport, load_pretrained, resolve_stem_relu
from tests import reference_training as reference
from tests.foreign_weights import ibn_net
from tests.networks import network_settings

SWIN = "swin_tiny_patch4_window7_224"


def build(seed: int, **changes: Any) -> Embedder:
    torch.manual_seed(seed)
    return build_embedder(**network_settings(**changes)).eval()


def load(network: Embedder, path: Path, choice: str = "imagenet", min_share: float = 0.9) -> WeightsReport:
    report = load_pretrained(network, path, choice=choice, min_share=min_share)
    assert report is not None
    return report


def backbone_of(network: Embedder) -> dict[str, Tensor]:
    return {name: tensor for name, tensor in network.base.state_dict().items() if "semantic" not in name}


def equal(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return found.keys() == expected.keys() and all(torch.equal(found[name], expected[name]) for name in expected)


def taos(network: Embedder) -> dict[str, Tensor]:
    """The state dict of a ResNet under TAO's names."""
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    state["model.base.feature.weight"] = state.pop("model.reduction.weight")[:, :, None, None]
    state["model.base.feature.bias"] = state.pop("model.reduction.bias")
    return state


def microsofts(network: Embedder) -> dict[str, Tensor]:
    """A Swin's state dict under Microsoft's names: patches merged at the end of a stage, buffers, classifier."""
    state = {}
    for name, tensor in backbone_of(network).items():
        for stage in (1, 2, 3):
            name = name.replace(f"layers.{stage}.downsample", f"layers.{stage - 1}.downsample@")  # noqa: PLW2901
        state[name.replace("@", "")] = tensor
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.int64)
    return state | {"head.weight": torch.zeros(1000, 768), "head.bias": torch.zeros(1000)}


def mmcvs(network: Embedder) -> dict[str, Tensor]:
    """A Swin's state dict under mmcv's names, as in TAO's and SOLIDER's files, with a random semantic controller."""
    state = {}
    for name, tensor in microsofts(network).items():
        if name.startswith("head."):
            continue
        renamed = name.replace("layers.", "stages.").replace("patch_embed.proj.", "patch_embed.projection.")
        renamed = renamed.replace(".attn.", ".attn.w_msa.").replace("mlp.fc1.", "ffn.layers.0.0.")
        renamed = renamed.replace("mlp.fc2.", "ffn.layers.1.")
        state["norm3." + name.removeprefix("norm.") if name.startswith("norm.") else renamed] = tensor
    for stage in range(4):
        width = (192, 384, 768, 768)[stage]
        for letter in "wb":
            state[f"semantic_embed_{letter}.{stage}.weight"] = torch.randn(width, 2)
            state[f"semantic_embed_{letter}.{stage}.bias"] = torch.randn(width)
    return state


@pytest.mark.parametrize("suffix", [".pth", ".tlt", ".safetensors"])
def test_torchvisions_and_timms_names_load_the_backbone_and_leave_the_classifier(tmp_path: Path, suffix: str) -> None:
    source, network = build(1, backbone="resnet_18"), build(2, backbone="resnet_18")
    path = tmp_path / f"weights{suffix}"
    state = dict(source.base.state_dict()) | {"fc.weight": torch.zeros(1000, 512), "fc.bias": torch.zeros(1000)}
    if suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    report = load(network, path)
    assert equal(dict(network.base.state_dict()), dict(source.base.state_dict()))
    assert (report.source_kind, report.share, report.reshaped) == ("torchvision or timm", 1.0, ())
    assert sorted(report.unexpected) == ["fc.bias", "fc.weight"]
    # 20 convolutions and 20 normalisations of 4 tensors (weight, bias, mean, variance)
    assert len(report.matched) == 20 + 4 * 20
    assert all(not name.startswith("base.") for name in report.missing)


@pytest.mark.parametrize("wrapper", ["state_dict", "model"])
@pytest.mark.parametrize("prefix", ["", "module.", "backbone."])
def test_wrapped_and_prefixed_weights_are_found(tmp_path: Path, wrapper: str, prefix: str) -> None:
    source, network = build(1), build(2)
    path = tmp_path / "weights.pth"
    torch.save(
        {wrapper: {prefix + name: tensor for name, tensor in source.base.state_dict().items()}, "epoch": 3}, path
    )
    assert load(network, path).share == 1.0
    assert equal(dict(network.base.state_dict()), dict(source.base.state_dict()))


@pytest.mark.parametrize(("choice", "with_head"), [("self", True), ("imagenet", False)])
def test_taos_checkpoint_loads_with_its_head_for_self_and_without_for_imagenet(
    tmp_path: Path, choice: str, with_head: bool
) -> None:
    source, network = build(1, backbone="resnet_50"), build(2, backbone="resnet_50")
    path = tmp_path / "resnet50.tlt"
    torch.save({"state_dict": taos(source), "epoch": 119}, path)
    report = load(network, path, choice)
    assert (report.source_kind, report.share) == ("TAO", 1.0)
    assert ("reduction.weight" in report.matched) == with_head
    assert torch.equal(network.reduction.weight, source.reduction.weight) == with_head  # type: ignore[arg-type]
    assert torch.equal(network.classifier.weight, source.classifier.weight) == with_head


def test_taos_weights_give_taos_features(tmp_path: Path) -> None:
    path = tmp_path / "resnet50.tlt"
    source = build(1, backbone="resnet_50")
    for module in source.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.bias, -0.1, 0.1)
    torch.save({"state_dict": taos(source)}, path)
    network = build(2, backbone="resnet_50", stem_relu=resolve_stem_relu("auto", choice="self", path=path), feat_dim=16)
    load(network, path, "self")
    images = torch.randn(2, 3, 64, 32)
    with torch.inference_mode():
        expected = reference.tao_resnet_embedding(images, taos(source), stage_depths=(3, 4, 6, 3), last_stride=1)
        # fifty layers of float32, summed in another order
        torch.testing.assert_close(network(images), expected, rtol=1e-3, atol=1e-4)


def test_strong_baselines_names_load(tmp_path: Path) -> None:
    source, network = build(1), build(2)
    path = tmp_path / "weights.pth"
    torch.save({name: tensor for name, tensor in source.state_dict().items() if "reduction" not in name}, path)
    report = load(network, path, "self")
    assert (report.source_kind, report.share) == ("strong baseline", 1.0)
    assert report.missing == ("reduction.weight", "reduction.bias")


def test_our_own_checkpoint_loads_and_a_classifier_of_other_persons_stays_random(tmp_path: Path) -> None:
    source, network = build(1), build(2, num_classes=7)
    path = tmp_path / "model.pth"
    contract = Contract(height=64, width=32, channels=3, mean=(0.5,) * 3, std=(0.2,) * 3, embedding=16)
    save_model(path, source, contract=contract, persons=range(5))
    before = network.classifier.weight.clone()
    report = load(network, path, "self")
    assert (report.source_kind, report.share) == ("this project", 1.0)
    assert report.missing == ("classifier.weight (found (5, 16), want (7, 16))",)
    assert torch.equal(network.classifier.weight, before)
    assert equal(dict(network.bottleneck.state_dict()), dict(source.bottleneck.state_dict()))


def test_microsofts_swin_loads(tmp_path: Path) -> None:
    source, network = build(1, backbone=SWIN, feat_dim=None), build(2, backbone=SWIN, feat_dim=None)
    path = tmp_path / "swin.pth"
    torch.save({"model": microsofts(source)}, path)
    report = load(network, path)
    assert report.source_kind == "Microsoft Swin"
    assert equal(backbone_of(network), backbone_of(source))
    assert sorted(report.unexpected) == ["head.bias", "head.weight"]
    assert all("semantic" in name for name in report.missing if name.startswith("base."))


@pytest.mark.parametrize(
    ("wrapper", "prefix", "kind"), [("teacher", "backbone.", "SOLIDER"), ("state_dict", "model.base.", "TAO")]
)
def test_soliders_and_taos_swin_load_with_their_semantic_controller(
    tmp_path: Path, wrapper: str, prefix: str, kind: str
) -> None:
    source, network = build(1, backbone=SWIN, feat_dim=None), build(2, backbone=SWIN, feat_dim=None)
    state = mmcvs(source)
    path = tmp_path / "swin.pth"
    torch.save({wrapper: {prefix + name: tensor for name, tensor in state.items()}}, path)
    report = load(network, path, "self")
    assert (report.source_kind, report.share) == (kind, 1.0)
    # the last stage's controller has no stage behind it
    assert sorted(report.unexpected) == sorted(
        f"{prefix}semantic_embed_{x}.3.{y}" for x in "wb" for y in ("weight", "bias")
    )
    found = network.base.layers[1].downsample  # type: ignore[union-attr, index]
    assert torch.equal(found.semantic_scale.weight, state["semantic_embed_w.0.weight"])
    assert torch.equal(found.semantic_shift.bias, state["semantic_embed_b.0.bias"])
    same = [name for name in backbone_of(source) if ".downsample." not in name]
    assert all(torch.equal(backbone_of(network)[name], backbone_of(source)[name]) for name in same)
    patches = torch.randn(4, 2, 96)
    expected = reference.mm_patch_merging(
        patches, norm=state["stages.0.downsample.norm.weight"], norm_bias=state["stages.0.downsample.norm.bias"],
        reduction=state["stages.0.downsample.reduction.weight"],
    )  # fmt: skip
    merged = timm.models.swin_transformer.PatchMerging.forward(found, patches[None])[0]
    torch.testing.assert_close(merged, expected, rtol=1e-4, atol=1e-5)  # float32 sums in another order


def test_swins_tables_are_interpolated_from_another_window(tmp_path: Path) -> None:
    source, network = build(1, backbone=SWIN, feat_dim=None), build(2, backbone=SWIN, feat_dim=None)
    state = dict(source.base.state_dict())
    table = "layers.0.blocks.0.attn.relative_position_bias_table"
    ramp = torch.linspace(-1, 1, 23)  # window 12: offsets -11..11 in rows and columns; the bias grows along the columns
    state[table] = ramp.repeat(23).view(-1, 1).expand(-1, 3).contiguous()
    path = tmp_path / "swin.pth"
    torch.save(state, path)
    report = load(network, path)
    assert report.reshaped == (f"base.{table}",)
    assert f"base.{table}" in report.matched
    found = network.base.get_parameter(table)[:, 0].view(13, 13).detach()
    assert found.shape == (13, 13)
    torch.testing.assert_close(found[0], found[12])
    assert bool((found[0].diff() > 0).all())
    assert found[0, 6].item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(("channels", "other"), [(3, 1), (1, 3)])
def test_the_stem_is_fitted_between_colour_and_grey(tmp_path: Path, channels: int, other: int) -> None:
    source, network = build(1, input_channels=channels), build(2, input_channels=other)
    path = tmp_path / "weights.pth"
    torch.save(source.base.state_dict(), path)
    report = load(network, path)
    assert (report.reshaped, report.share) == (("base.conv1.0.weight",), 1.0)
    # a grey picture answers alike as one channel and as three equal ones
    grey = torch.randn(2, 1, 64, 32)
    expected = source.base(grey.expand(-1, channels, -1, -1))
    found = network.base(grey.expand(-1, other, -1, -1))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_weights_of_another_backbone_are_an_error_with_the_count(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save(build(1, backbone="timm/test_vit").base.state_dict(), path)
    with pytest.raises(ArtifactError) as error:
        load(build(2), path)
    first = next(iter(build(1, backbone="timm/test_vit").base.state_dict()))
    assert str(error.value).splitlines()[:3] == [
        f"{path}: matched 0 of the 75 tensors of backbone timm/test_resnet (weights of torchvision or timm)",
        "  want: at least 90%, found 0%",
        "  first missing: base.conv1.0.weight, base.conv1.1.weight, base.conv1.1.bias",
    ]
    assert str(error.value).splitlines()[3].startswith(f"  first unexpected: {first}, ")


def test_a_lower_share_can_be_allowed(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"conv1.0.weight": build(1).base.state_dict()["conv1.0.weight"]}, path)
    assert load(build(2), path, min_share=0.01).matched == ("base.conv1.0.weight",)


def test_taos_resnet_18_of_bottlenecks_is_refused_with_the_reason(tmp_path: Path) -> None:
    path = tmp_path / "resnet18.tlt"
    torch.save({"state_dict": taos(build(1, backbone="resnet_50"))}, path)
    with pytest.raises(ArtifactError) as error:
        load(build(2, backbone="resnet_18"), path, "self")
    assert str(error.value) == (
        f"{path}: its blocks are bottlenecks of three convolutions, those of resnet_18 are basic ones of two\n"
        "  TAO builds ResNet-18 and -34 of bottlenecks; want: weights of torchvision's resnet_18"
    )


def test_an_encrypted_checkpoint_of_taos_is_one_clear_error(tmp_path: Path) -> None:
    path = tmp_path / "model.tlt"
    torch.save({"state_dict": b"gibberish", "state_dict_encrypted": "id"}, path)
    with pytest.raises(ArtifactError) as error:
        load(build(2), path, "self")
    assert str(error.value) == f"{path}: encrypted by TAO\n  want: weights that were saved without an encryption_key"


def test_a_file_without_tensors_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    torch.save({"epoch": 3}, path)
    with pytest.raises(ArtifactError) as error:
        load(build(2), path)
    assert str(error.value) == (
        f"{path}: no tensors in it\n  want: a state dict, bare or under teacher or state_dict or model"
    )


def test_the_stem_relu_follows_the_weights(tmp_path: Path) -> None:
    source = build(1, backbone="resnet_18")
    contents: dict[str, Any] = {
        "torchvision": dict(source.base.state_dict()),
        "tao": {"state_dict": taos(source)},
        "baseline": {name: tensor for name, tensor in source.state_dict().items() if "reduction" not in name},
        "ours": {
            "state_dict": {},
            "reid": {"format": 1, "model": network_settings(stem_relu=False), "contract": "", "persons": []},
        },
    }
    contents["ours"]["state_dict"] = {f"model.{name}": tensor for name, tensor in source.state_dict().items()}
    found = {}
    for name, content in contents.items():
        torch.save(content, tmp_path / name)
        found[name] = resolve_stem_relu("auto", choice="self", path=tmp_path / name)
    assert found == {"torchvision": True, "tao": False, "baseline": False, "ours": False}
    assert resolve_stem_relu("auto", choice="", path=tmp_path / "tao")
    assert resolve_stem_relu("auto", choice="imagenet", path=None)
    assert resolve_stem_relu(True, choice="self", path=tmp_path / "tao")


def test_no_choice_is_random_weights_and_a_path_beside_it_is_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    network = build(1)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert load_pretrained(network, None, choice="", min_share=0.9) is None
    assert caplog.messages == []
    assert load_pretrained(network, Path("nowhere.pth"), choice="", min_share=0.9) is None
    assert caplog.messages == [
        "model.pretrained_model_path: nowhere.pth is not read, because model.pretrain_choice is ''"
    ]
    assert equal(dict(network.state_dict()), before)


def test_self_without_a_path_and_an_unknown_choice_are_errors() -> None:
    with pytest.raises(SpecError) as error:
        load_pretrained(build(1), None, choice="self", min_share=0.9)
    assert str(error.value) == (
        "model.pretrained_model_path: null\n  want: a file, because model.pretrain_choice is self"
    )
    with pytest.raises(SpecError) as error:
        load_pretrained(build(1), None, choice="coco", min_share=0.9)
    assert str(error.value) == "model.pretrain_choice: found 'coco'\n  want: imagenet, self or '' (random weights)"


@pytest.mark.parametrize("silent", [False, True])
def test_an_unreachable_hub_is_an_error_in_seconds_that_says_what_to_set(
    monkeypatch: pytest.MonkeyPatch, silent: bool
) -> None:
    """Refused at once by a closed port, or taken by a server that never answers."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{server.getsockname()[1]}"
        if silent:
            server.listen()
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", address)
        started = time.monotonic()
        with pytest.raises(ArtifactError) as error:
            load_pretrained(build(1, backbone="resnet_18"), None, choice="imagenet", min_share=0.9)
        assert time.monotonic() - started < 6
    first, second = str(error.value).splitlines()
    assert first.startswith(f"model.pretrain_choice: imagenet: cannot get timm/resnet18.tv_in1k from {address} (")
    assert second == (
        "  set model.pretrained_model_path to a torchvision or timm file of resnet_18, "
        "or model.pretrain_choice to '' for random weights"
    )


def test_ibn_nets_weights_fill_the_backbone_and_are_not_downloaded(tmp_path: Path) -> None:
    network, path, state = build(1, backbone="resnet_18_ibn_a"), tmp_path / "resnet18_ibn_a-2f571257.pth", ibn_net()
    torch.save(state, path)
    report = load(network, path, min_share=1.0)
    assert (report.source_kind, report.reshaped, report.unexpected) == ("IBN-Net", (), ("fc.weight", "fc.bias"))
    for name, tensor in network.base.state_dict().items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(tensor, state[name])
    assert load(build(1, backbone="resnet_18"), path, min_share=0.5).share < 0.95  # the IBN's are left out
    with pytest.raises(ArtifactError) as error:
        load_pretrained(network, None, choice="imagenet", min_share=0.9)
    assert str(error.value) == (
        "model.pretrain_choice: imagenet: resnet_18_ibn_a is on no hub that this project can download from\n"
        "  set model.pretrained_model_path to resnet18_ibn_a-*.pth, a release of github.com/XingangPan/IBN-Net, "
        "or model.pretrain_choice to '' for random weights"
    )


def test_weights_in_the_hubs_cache_need_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, network = build(1, backbone="resnet_18"), build(2, backbone="resnet_18")
    repository = tmp_path / "models--timm--resnet18.tv_in1k"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots" / ("0" * 40)).mkdir(parents=True)
    save_file(dict(source.base.state_dict()), repository / "snapshots" / ("0" * 40) / "model.safetensors")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    report = load_pretrained(network, None, choice="imagenet", min_share=0.9)
    assert report is not None
    assert report.share == 1.0


def test_the_account_names_what_was_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "weights.pth"
    torch.save(dict(build(1).base.state_dict()) | {"fc.weight": torch.zeros(2, 2)}, path)
    with caplog.at_level(logging.INFO):
        report = load(build(2, feat_dim=None), path)
    assert report.lines() == [
        "weights of torchvision or timm: matched 75 (0 reshaped), missing 5, unexpected 1; backbone 100%",
        "  missing: bottleneck.weight, bottleneck.bias, bottleneck.running_mean, bottleneck.running_var,"
        " classifier.weight",
        "  unexpected: fc.weight",
    ]
    assert caplog.messages == report.lines()
