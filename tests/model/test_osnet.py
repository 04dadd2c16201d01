"""OSNet: torchreid's formulas, its checkpoints, and what the other parts of the project make of the network."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from reid.contract import Contract
from reid.deploy.half import to_half
from reid.deploy.onnx import OnnxModel
from reid.deploy.onnx_export import onnx_bytes
from reid.errors import ArtifactError, SpecError
from reid.model.adopting import Adopted, adopt_checkpoint
from reid.model.backbones import feature_map, is_convolutional
from reid.model.checkpoint import load_model, save_model
from reid.model.embedder import Embedder, build_embedder
from reid.model.osnet import OSNETS, OmniScaleBlock
from reid.model.weights import load_pretrained
from tests import foreign_weights as foreign
from tests.exporting import contract_of, some_network
from tests.networks import network_settings
from tests.reference_osnet import osnet_block, osnet_embedding

ROUNDING = 1e-4
"""Sixty layers of float32, summed in another order."""
SMALL = {"backbone": "osnet_x0_25", "feat_dim": 512, "neck": ""}
AIN = SMALL | {"backbone": "osnet_ain_x0_25"}
IBN = SMALL | {"backbone": "osnet_ibn_x1_0"}
KINDS = [("plain", 16, SMALL), ("ain", 16, AIN), ("ibn", 64, IBN)]


def images() -> Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def apart(some: Tensor, others: Tensor) -> float:
    return float((some - others).abs().max() / others.abs().max())


def adopt(path: Path, content: Any, **changes: Any) -> Adopted:
    torch.save(content, path)
    settings = network_settings(**changes)
    values = {name: value for name, value in settings.items() if name not in ("stem_relu", "num_classes")}
    return adopt_checkpoint(path, stem_relu=None, **values)


def refusal(path: Path, content: Any, **changes: Any) -> str:
    with pytest.raises(ArtifactError) as caught:
        adopt(path, content, **changes)
    return str(caught.value)


def embedded(network: Embedder) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network.eval()(images())
    return found


@pytest.mark.parametrize("instance_norm", ["nowhere", "sum", "branch"])
@pytest.mark.parametrize("out", [64, 128])
def test_a_block_is_the_gated_sum_of_four_scales_beside_a_shortcut(instance_norm: str, out: int) -> None:
    torch.manual_seed(1)
    block = OmniScaleBlock(64, out, instance_norm=instance_norm).eval()
    for name, tensor in block.state_dict().items():
        if not name.endswith("tracked"):
            torch.nn.init.uniform_(tensor, 0.5 if name.endswith("var") else -0.5, 0.9)
    maps = torch.randn(2, 64, 7, 5)
    with torch.no_grad():
        expected = osnet_block(maps, {f"b.{name}": tensor for name, tensor in block.state_dict().items()}, "b")
        found = block(maps)
    assert found.shape == (2, out, 7, 5)
    assert apart(found, expected) < ROUNDING


@pytest.mark.parametrize(("kind", "stem", "spec"), KINDS)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_torchreids_osnet_embeds_as_there(
    tmp_path: Path, kind: str, stem: int, spec: dict[str, Any], prefix: str
) -> None:
    state = foreign.osnet(kind, stem=stem, persons=7)
    content = {"state_dict": {prefix + name: tensor for name, tensor in state.items()}, "epoch": 60}
    adopted = adopt(tmp_path / "model.pth.tar-60", content, **spec)
    learned = [name for name in state if not name.endswith("num_batches_tracked") and "classifier" not in name]
    assert (adopted.source, adopted.persons, adopted.tensors) == ("torchreid", 7, len(learned))
    assert apart(embedded(adopted.network), osnet_embedding(images(), state)) < ROUNDING
    assert torch.equal(adopted.network.classifier.weight, state["classifier.weight"])


def test_fast_reids_osnet_has_no_layer_behind_its_pooling(tmp_path: Path) -> None:
    state, spec = foreign.osnet("plain", stem=16, persons=7, width=None), SMALL | {"feat_dim": None, "neck": "bnneck"}
    head = {f"heads.bottleneck.0.{name}": torch.full((128,), 2.0) for name in ("weight", "running_var")}
    head |= {f"heads.bottleneck.0.{name}": torch.ones(128) for name in ("bias", "running_mean")}
    content = {f"backbone.{name}": tensor for name, tensor in state.items()} | head
    adopted = adopt(tmp_path / "m.pth", {"model": content}, **spec)
    assert adopted.source == "fast-reid"
    expected = (osnet_embedding(images(), state) - 1) * 2 / (2 + 1e-5) ** 0.5 + 1
    assert apart(embedded(adopted.network), expected) < ROUNDING


@pytest.mark.parametrize(
    ("kind", "stem", "spec", "want"),
    [
        ("plain", 16, {"backbone": "resnet_18"}, "model.backbone=osnet_x0_25"),
        ("plain", 16, SMALL | {"backbone": "osnet_x0_5"}, "model.backbone=osnet_x0_25"),
        ("ain", 16, SMALL, "model.backbone=osnet_ain_x0_25"),
        ("ibn", 64, SMALL, "model.backbone=osnet_ibn_x1_0"),
        ("plain", 16, SMALL | {"feat_dim": None}, "model.feat_dim=512"),
        ("plain", 16, SMALL | {"feat_dim": 256, "neck": "bnneck"}, "model.feat_dim=512 model.neck="),
    ],
)
def test_an_osnet_is_told_from_its_tensors(
    tmp_path: Path, kind: str, stem: int, spec: dict[str, Any], want: str
) -> None:
    found = refusal(tmp_path / "m.pth", foreign.osnet(kind, stem=stem, persons=7), **spec)
    assert found.splitlines()[-1] == f"  want: {want}, as the file has it"
    assert "IBN-b" not in found


def test_imagenets_file_fills_backbone_and_layer_and_a_persons_file_the_classifier_too(tmp_path: Path) -> None:
    path, state = tmp_path / "osnet_x0_25_imagenet.pth", foreign.osnet("plain", stem=16, persons=5)
    torch.save({f"module.{name}": tensor for name, tensor in state.items()}, path)
    for choice, left_out in (("imagenet", ("classifier.weight", "classifier.bias")), ("self", ())):
        network = build_embedder(**network_settings(**SMALL))
        report = load_pretrained(network, path, choice=choice, min_share=1.0)
        assert report is not None
        assert (report.source_kind, report.share, report.unexpected) == ("torchreid", 1.0, left_out)
        assert apart(embedded(network), osnet_embedding(images(), state)) < ROUNDING
    with pytest.raises(ArtifactError) as error:
        load_pretrained(network, None, choice="imagenet", min_share=0.9)
    assert str(error.value) == (
        "model.pretrain_choice: imagenet: osnet_x0_25 is on no hub that this project can download from\n"
        "  set model.pretrained_model_path to osnet_x0_25_imagenet.pth, of the model zoo of "
        "github.com/KaiyangZhou/deep-person-reid, or model.pretrain_choice to '' for random weights"
    )


def test_torchreids_weights_begin_a_grey_network(tmp_path: Path) -> None:
    path, network = tmp_path / "m.pth", build_embedder(**network_settings(**SMALL, input_channels=1))
    state = foreign.osnet("plain", stem=16, persons=5)
    torch.save(state, path)
    report = load_pretrained(network, path, choice="imagenet", min_share=1.0)
    assert report is not None
    assert report.reshaped == ("base.conv1.conv.weight",)
    grey = images()[:, :1]
    with torch.inference_mode():
        assert apart(network.eval()(grey), osnet_embedding(grey.expand(-1, 3, -1, -1), state)) < ROUNDING


@pytest.mark.parametrize("backbone", OSNETS)
def test_the_widths_of_every_osnet(backbone: str) -> None:
    # parameters of torchreid's networks of these names without their classifier, counted there; fc is 512 wide
    counted = {"x1_0": 2_169_508, "x0_75": 1_285_754, "x0_5": 630_034, "x0_25": 201_864}
    with torch.device("meta"):
        network = build_embedder(**network_settings(backbone=backbone, feat_dim=512, neck=""))
        shape = feature_map(network.base, torch.empty(2, 3, 256, 128)).shape
    parts = (network.base, network.reduction)
    found = sum(parameter.numel() for part in parts for parameter in part.parameters())
    size = backbone.removeprefix("osnet_").removeprefix("ain_").removeprefix("ibn_")
    assert found == counted[size] + (1024 if "ibn" in backbone else 0)  # two instance normalisations of 256 channels
    assert shape == (2, network.base.num_features, 16, 8)
    assert (network.embedding_size, is_convolutional(network.base)) == (512, True)


def test_a_fresh_network_trains_with_a_neck_behind_the_layer() -> None:
    torch.manual_seed(1)
    network = build_embedder(**network_settings(**SMALL | {"feat_dim": 24, "neck": "bnneck"})).train()
    features, logits = network(images().to(memory_format=torch.channels_last))
    assert (features.shape, logits.shape, bool((features >= 0).all())) == ((2, 24), (2, 5), True)
    logits.sum().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None and p.requires_grad] == []
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert [output.dtype for output in network(images())] == [torch.float32] * 2


def test_a_checkpoint_is_read_as_the_network_it_was(tmp_path: Path) -> None:
    network, path = some_network(**AIN), tmp_path / "m.pth"
    save_model(path, network, contract=contract_of(network.settings), persons=range(5))
    # load_model puts it in channels_last, which sums in another order
    assert apart(embedded(load_model(path).network), embedded(network)) < ROUNDING


class OneBlock(nn.Module):
    """Images (B, 3, H, W) -> (B, 64): a stem, a block of AIN, the mean of its map."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.block = nn.Conv2d(3, 64, 3, stride=2), OmniScaleBlock(64, 64, instance_norm="branch")

    def forward(self, images: Tensor) -> Tensor:
        pooled: Tensor = self.block(self.conv(images)).mean(dim=(2, 3))
        return pooled


def test_a_block_is_exported_with_the_same_map_in_float_and_half() -> None:
    torch.manual_seed(1)
    assert_exported(OneBlock().eval(), contract_of(network_settings(feat_dim=64)))


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SMALL, AIN])
def test_it_is_exported_with_the_same_embedding_in_float_and_half(spec: dict[str, Any]) -> None:
    network = some_network(**spec)
    assert_exported(network, contract_of(network.settings))


def assert_exported(network: nn.Module, contract: Contract) -> None:
    content = onnx_bytes(network, where=Path("m"), contract=contract, settings={}, opset=18)
    with torch.inference_mode():
        expected = network(images()).numpy()
    largest = np.abs(expected).max()
    assert np.abs(OnnxModel(content=content)(images().numpy()) - expected).max() < ROUNDING * largest
    half = to_half(onnx.load_model_from_string(content)).SerializeToString()
    assert np.abs(OnnxModel(content=half)(images().numpy()) - expected).max() < 0.02 * largest  # 11 bits, 60 layers


@pytest.mark.parametrize(
    ("backbone", "height", "width", "want"),
    [
        ("osnet_x0_25", 64, 8, "at least 16 each, and 16 the larger"),
        ("osnet_ain_x0_25", 24, 16, "at least 16 each, and 32 the larger"),
        ("resnet_18_ibn_a", 16, 16, "at least 1 each, and 17 the larger"),
    ],
)
def test_an_image_without_room_for_the_network_is_refused(backbone: str, height: int, width: int, want: str) -> None:
    with pytest.raises(SpecError) as error:
        build_embedder(**network_settings(backbone=backbone, height=height, width=width))
    assert str(error.value) == (
        f"model.input_height: {height} and model.input_width: {width} are too small for {backbone}\n  want: {want}"
    )


@pytest.mark.parametrize(
    ("backbone", "size"), [("osnet_x0_25", (16, 16)), ("osnet_ain_x0_25", (32, 16)), ("resnet_18_ibn_a", (17, 8))]
)
def test_the_smallest_image_that_is_allowed_is_embedded(backbone: str, size: tuple[int, int]) -> None:
    network = build_embedder(**network_settings(backbone=backbone, height=size[0], width=size[1])).train()
    assert network(torch.randn(2, 3, *size))[0].shape == (2, 16)


@pytest.mark.slow
@pytest.mark.parametrize("spec", [SMALL, AIN])
def test_it_is_one_graph_for_torch_compile(spec: dict[str, Any]) -> None:
    network = some_network(**spec).train()
    compiled = torch.compile(network, fullgraph=True, backend="aot_eager")
    assert compiled(images())[0].shape == (2, 512)
