"""What each field of the spec's section `model` does."""

import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from reid.errors import ArtifactError
from reid.model.backbones import feature_map
from reid.model.embedder import Embedder
from reid.model.swin import SemanticMerging
from reid.training.resume import LATEST
from tests.spec.lab import Lab, images

SWIN = "model.backbone=swin_tiny_patch4_window7_224"


def backbone(lab: Lab) -> None:
    for name, width in (("timm/test_resnet", 96), ("timm/test_vit", 64)):
        assert lab.network(f"model.backbone={name}").base.num_features == width


def last_stride(lab: Lab) -> None:
    maps = [
        feature_map(lab.network(f"model.last_stride={stride}").base, images(height=64, width=32)) for stride in (1, 2)
    ]
    assert [tuple(found.shape[2:]) for found in maps] == [(4, 2), (2, 1)]
    assert lab.said(lambda: lab.network("model.backbone=timm/test_vit", "model.last_stride=2")) == [
        "model.last_stride: 2 has no effect: timm/test_vit has no ResNet stage"
    ]


def stem_relu(lab: Lab) -> None:
    off, on, auto = (_after_stem(lab.network(f"model.stem_relu={value}")) for value in ("off", "on", "auto"))
    assert off.min() < 0
    assert torch.equal(on, off.relu())
    assert torch.equal(auto, on)


def stem_pool(lab: Lab) -> None:
    # a ramp along the rows: windows of three begin a pixel before it, or with it
    ramp = torch.arange(8.0).repeat(8, 1)[None, None]
    for value, first in (("padded", 1.0), ("ceil", 2.0)):
        assert lab.network(f"model.stem_pool={value}").base.maxpool(ramp)[0, 0, 0, 0] == first  # type: ignore[operator]


def pooling(lab: Lab) -> None:
    maps = feature_map(lab.network("model.feat_dim=null", "model.neck=''").eval().base, images())
    wanted = {
        "auto": maps.mean(dim=(2, 3)),
        "mean": maps.mean(dim=(2, 3)),
        "gem": (maps.clamp(min=1e-6) ** 3).mean(dim=(2, 3)) ** (1 / 3),
    }
    for value, expected in wanted.items():
        network = lab.network("model.feat_dim=null", "model.neck=''", f"model.pooling={value}").eval()
        torch.testing.assert_close(network(images()), expected)
    vit = [lab.network("model.backbone=timm/test_vit", f"model.pooling={value}") for value in ("auto", "class", "mean")]
    assert [network.settings["pooling"] for network in vit] == ["class", "class", "mean"]


def _after_stem(network: Embedder) -> torch.Tensor:
    maps = images()
    for name in ("conv1", "bn1", "act1"):
        maps = network.base.get_submodule(name)(maps)
    return maps


def pretrain_choice(lab: Lab) -> None:
    file = lab.train().folder / LATEST
    for choice, same in (("self", {"base", "reduction"}), ("imagenet", {"base"}), ("''", set())):
        network = lab.network(f"model.pretrain_choice={choice}", f"model.pretrained_model_path={file}")
        assert _parts_as_in(file, network) == same, choice


def pretrained_model_path(lab: Lab) -> None:
    files = [lab.train().folder / LATEST, lab.train("train.seed=4").folder / LATEST]
    for file, other in (files, files[::-1]):
        network = lab.network("model.pretrain_choice=self", f"model.pretrained_model_path={file}")
        assert _parts_as_in(file, network) == {"base", "reduction"}
        assert _parts_as_in(other, network) == set()


def _parts_as_in(file: Path, network: Embedder) -> set[str]:
    """Those of base and reduction whose tensors are all the file's."""
    state = torch.load(file, weights_only=True)["state_dict"]
    parts = {"base": network.base, "reduction": network.reduction}
    return {
        name
        for name, part in parts.items()
        if all(torch.equal(tensor, state[f"model.{name}.{key}"]) for key, tensor in part.named_parameters())
    }


def min_matched_share(lab: Lab) -> None:
    half = {name: tensor for name, tensor in lab.network().base.state_dict().items() if not name.startswith("layer4")}
    torch.save(half, lab.folder / "half.pth")
    chosen = ["model.pretrain_choice=imagenet", f"model.pretrained_model_path={lab.folder}/half.pth"]
    lab.network(*chosen, "model.min_matched_share=0.3")
    with pytest.raises(ArtifactError, match="want: at least 95%"):
        lab.network(*chosen, "model.min_matched_share=0.95")
    assert lab.warnings("model.pretrain_choice=''", "model.min_matched_share=0.3") == [
        "spec: model.min_matched_share has no effect: model.pretrain_choice is '' (random weights)"
    ]


def input_channels(lab: Lab) -> None:
    assert lab.batch("model.input_channels=1").images.shape == (8, 1, 32, 16)
    assert lab.network("model.input_channels=1").eval()(images(channels=1)).shape == (4, 8)


def input_width(lab: Lab) -> None:
    assert [lab.batch(f"model.input_width={width}").images.shape[3] for width in (16, 24)] == [16, 24]


def input_height(lab: Lab) -> None:
    assert [lab.batch(f"model.input_height={height}").images.shape[2] for height in (32, 48)] == [32, 48]


def neck(lab: Lab) -> None:
    for value, is_off in (("bnneck", False), ("''", True)):
        network = _seasoned(lab.network(f"model.neck={value}"))
        assert torch.equal(network(images()), network.features(images())) is is_off
        assert (network.classifier.bias is not None) is is_off


def feat_dim(lab: Lab) -> None:
    for value, width in (("8", 8), ("12", 12), ("null", 96)):
        assert lab.network(f"model.feat_dim={value}").eval()(images()).shape == (4, width)
    assert lab.warnings(SWIN, "model.feat_dim=512") == [
        "spec: model.feat_dim has no effect: Swin keeps its own width unless model.reduce_feat_dim is true"
    ]
    assert lab.warnings(SWIN) == lab.warnings(SWIN, "model.feat_dim=null") == []


def neck_feat(lab: Lab) -> None:
    before, after = (_seasoned(lab.network(f"model.neck_feat={side}")) for side in ("before", "after"))
    assert torch.equal(before(images()), after.features(images()))
    assert torch.equal(after(images()), after.bottleneck(before(images())))
    assert not torch.allclose(after(images()), before(images()), rtol=0.1)
    assert lab.warnings("model.neck=''", "model.neck_feat=before") == [
        "spec: model.neck_feat has no effect: model.neck is '', and both sides of no neck are the same"
    ]


def _seasoned(network: Embedder) -> Embedder:
    """In evaluation mode, after its BatchNorms have seen a batch."""
    with torch.no_grad():
        network.train()(images() * 3 + 1)
    return network.eval()


def id_loss_type(lab: Lab) -> None:
    # the label's cosine is 0.5, the others' 0; margin 0.5, scale 30: the label's logits are 15, 30 cos(pi / 3 + 0.5),
    # 30 (0.5 - 0.5) and 30 (1.5 - 0.5)(0.5 - 0.5); the others' are 0, and in circle 30 x 0.5 x -0.5
    wanted = {
        "softmax": (0.5, 0.0),
        "arcface": (30 * math.cos(math.pi / 3 + 0.5), 0.0),
        "cosface": (0.0, 0.0),
        "amsoftmax": (0.0, 0.0),
        "circle": (0.0, -7.5),
    }
    for kind, (label, others) in wanted.items():
        override = f"model.id_loss_type={kind}"
        loss = lab.module(override, "model.label_smooth=false").losses["cross_entropy"]
        found = loss(torch.tensor([[0.5, 0, 0, 0]]), torch.tensor([0])).item()
        assert found == pytest.approx(math.log(1 + 3 * math.exp(others - label)), rel=1e-4)
        steps = lab.fit(override, "train.num_epochs=8").steps
        assert steps[-1]["cross_entropy"] < steps[0]["cross_entropy"]
        assert lab.network(override).settings["id_loss_type"] == kind
    assert lab.warnings("model.id_loss_type=circle", "dataset.sampler=triplet") == [
        "spec: model.id_loss_type has no effect: dataset.sampler = triplet uses no cross-entropy"
    ]


def _loss_weight(field: str, part: str, off: str, why: str) -> Callable[[Lab], None]:
    def check(lab: Lab) -> None:
        for weight in (1.0, 0.25):
            step = lab.fit(f"model.{field}={weight}").steps[0]
            other = "triplet" if part == "cross_entropy" else "cross_entropy"
            assert step["loss"] == pytest.approx(weight * step[part] + step[other], rel=1e-5)
        assert lab.warnings(f"model.{field}=0.5", f"dataset.sampler={off}") == [
            f"spec: model.{field} has no effect: {why}"
        ]

    return check


def metric_loss_type(lab: Lab) -> None:
    for kind, names in (("center", {"center"}), ("triplet_center", {"triplet", "center"})):
        step = lab.fit("model.with_center_loss=true", f"model.metric_loss_type={kind}").steps[0]
        assert step.keys() & {"triplet", "center"} == names
    with_center = ["model.metric_loss_type=center", "model.with_center_loss=true"]
    assert lab.warnings(*with_center, "dataset.sampler=softmax") == [
        "spec: model.metric_loss_type has no effect: dataset.sampler = softmax uses no metric loss",
        "spec: model.with_center_loss has no effect: dataset.sampler = softmax uses no metric loss",
    ]


def with_center_loss(lab: Lab) -> None:
    assert "center" not in lab.fit().steps[0]
    assert lab.fit("model.with_center_loss=true").steps[0].keys() >= {"cross_entropy", "triplet", "center"}
    assert lab.warnings("model.with_center_loss=true") == [
        "spec: model.metric_loss_type: 'triplet' is read as 'triplet_center', because model.with_center_loss is true"
    ]


def with_flip_feature(lab: Lab) -> None:
    plain, flipped = (lab.network(f"model.with_flip_feature={value}").eval() for value in ("false", "true"))
    torch.testing.assert_close(flipped(images()), plain(images()) + plain(images().flip(3)))


def label_smooth(lab: Lab) -> None:
    # -log softmax of (4, 0, 0, 0) at 0: log(e^4 + 3) - 4 = 0.0535; smoothed, 0.1 of the label goes to the mean logit 1:
    # 4.0535 - 0.9 x 4 - 0.1 x 1 = 0.3535
    for value, wanted in (("true", 0.3535), ("false", 0.0535)):
        loss = lab.module(f"model.label_smooth={value}").losses["cross_entropy"]
        found = loss(torch.tensor([[4.0, 0, 0, 0]]), torch.tensor([0]))
        assert found.item() == pytest.approx(wanted, abs=1e-4)
    assert lab.warnings("model.label_smooth=false", "dataset.sampler=triplet") == [
        "spec: model.label_smooth has no effect: dataset.sampler = triplet uses no cross-entropy"
    ]


def _swin(lab: Lab) -> Embedder:
    """A Swin with every one of its own fields changed."""
    rates = ["model.drop_path=0.3", "model.drop_out=0.4", "model.att_drop_rate=0.2", "model.semantic_weight=0.7"]
    network: Embedder = lab.once("swin", lambda: lab.network(SWIN, *rates, "model.reduce_feat_dim=true"))
    return network


def _swins_own(field: str, value: str) -> Callable[[Lab], None]:
    """A field of Swin: it arrives there, and says elsewhere that it has no effect."""

    def check(lab: Lab) -> None:
        last = _swin(lab).base.get_submodule("layers.3.blocks.1")
        found = {
            # stochastic depth grows linearly over the blocks up to its rate
            "drop_path": last.get_submodule("drop_path1").drop_prob,
            "drop_out": last.get_submodule("mlp.drop1").p,
            "att_drop_rate": last.get_submodule("attn.attn_drop").p,
            "semantic_weight": float(
                next(part.control[0] for part in _swin(lab).modules() if isinstance(part, SemanticMerging))
            ),
        }
        assert found[field] == pytest.approx(float(value))
        readers = "Swin reads" if field == "semantic_weight" else "Swin and ViT read"
        assert lab.warnings(f"model.{field}={value}") == [f"spec: model.{field} has no effect: only {readers} it"]

    return check


def _vits_too(field: str, value: str, module: str, name: str) -> Callable[[Lab], None]:
    """A field of Swin and ViT: it arrives in both."""

    def check(lab: Lab) -> None:
        _swins_own(field, value)(lab)
        chosen = ["model.backbone=timm/test_vit", f"model.{field}={value}"]
        assert getattr(lab.network(*chosen).base.get_submodule(module), name) == pytest.approx(float(value))
        assert lab.warnings(*chosen) == []

    return check


def stride_size(lab: Lab) -> None:
    # of 32 x 16 pixels: patches begin at 0 and 16 of the rows, or at 0, 8 and 16
    for value, tokens in (("[16,16]", 1 + 2), ("[8,16]", 1 + 3)):
        network = lab.network("model.backbone=timm/test_vit", f"model.stride_size={value}")
        assert network.base.forward_features(images()).shape == (4, tokens, 64)  # type: ignore[operator]
    assert lab.warnings("model.stride_size=[12,12]") == ["spec: model.stride_size has no effect: only ViT reads it"]


def dropout_rate(lab: Lab) -> None:
    network = lab.network("model.dropout_rate=0.999999", "model.neck=''").train()
    torch.testing.assert_close(network(images())[1], network.classifier.bias.expand(4, 4))


def reduce_feat_dim(lab: Lab) -> None:
    assert _swin(lab).embedding_size == 8
    assert lab.network(SWIN).embedding_size == 768
    assert lab.warnings("model.reduce_feat_dim=true") == [
        "spec: model.reduce_feat_dim has no effect: only Swin reads it; model.feat_dim reduces the embedding here"
    ]


MODEL: dict[str, Callable[[Lab], None]] = {
    "model.backbone": backbone,
    "model.last_stride": last_stride,
    "model.stem_relu": stem_relu,
    "model.stem_pool": stem_pool,
    "model.pooling": pooling,
    "model.pretrain_choice": pretrain_choice,
    "model.pretrained_model_path": pretrained_model_path,
    "model.min_matched_share": min_matched_share,
    "model.input_channels": input_channels,
    "model.input_width": input_width,
    "model.input_height": input_height,
    "model.neck": neck,
    "model.feat_dim": feat_dim,
    "model.neck_feat": neck_feat,
    "model.id_loss_type": id_loss_type,
    "model.id_loss_weight": _loss_weight(
        "id_loss_weight", "cross_entropy", "triplet", "dataset.sampler = triplet uses no cross-entropy"
    ),
    "model.triplet_loss_weight": _loss_weight("triplet_loss_weight", "triplet", "softmax", "the triplet loss is off"),
    "model.metric_loss_type": metric_loss_type,
    "model.with_center_loss": with_center_loss,
    "model.with_flip_feature": with_flip_feature,
    "model.label_smooth": label_smooth,
    "model.drop_path": _vits_too("drop_path", "0.3", "blocks.5.drop_path1", "drop_prob"),
    "model.drop_out": _vits_too("drop_out", "0.4", "blocks.5.mlp.drop1", "p"),
    "model.att_drop_rate": _vits_too("att_drop_rate", "0.2", "blocks.5.attn.attn_drop", "p"),
    "model.dropout_rate": dropout_rate,
    "model.reduce_feat_dim": reduce_feat_dim,
    "model.stride_size": stride_size,
    "model.semantic_weight": _swins_own("semantic_weight", "0.7"),
}
