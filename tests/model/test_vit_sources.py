"""Vision Transformers of other projects give the embeddings that those projects compute, or are refused by name."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from torch import Tensor

from reid.errors import ArtifactError
from reid.model.adopting import Adopted, adopt_checkpoint
from reid.model.embedder import Embedder, build_embedder
from reid.model.weights import load_pretrained
from tests.networks import network_settings
from tests.reference_vit import clip_reid_embedding, transreid_embedding, vit_tokens

TINY: dict[str, Any] = {"backbone": "timm/test_vit", "feat_dim": None, "pooling": "auto"}
"""6 blocks, 64 wide, 2 heads, patches of 16; images of 64 x 32."""
CLIP: dict[str, Any] = {"backbone": "timm/vit_base_patch16_clip_quickgelu_224", "feat_dim": 96}
"""Built by `small_clip` with 2 blocks, 64 wide, 2 heads; its projection is 32 wide."""


def adopt(path: Path, content: Any, **changes: Any) -> Adopted:
    torch.save(content, path)
    settings = network_settings(**(TINY | changes))
    values = {name: value for name, value in settings.items() if name not in ("stem_relu", "num_classes")}
    return adopt_checkpoint(path, stem_relu=None, **values)


def refusal(path: Path, content: Any, **changes: Any) -> list[str]:
    with pytest.raises(ArtifactError) as caught:
        adopt(path, content, **changes)
    return str(caught.value).splitlines()


def images() -> Tensor:
    return torch.randn(2, 3, 64, 32, generator=torch.Generator().manual_seed(1))


def embedded(adopted: Adopted) -> Tensor:
    with torch.inference_mode():
        found: Tensor = adopted.network(images())
    return found


def close(found: Tensor, expected: Tensor) -> bool:
    """Within the rounding of float32 sums in another order; another token or neck is 100 times as far."""
    return float((found - expected).abs().max() / expected.abs().max()) < 1e-4


class Drawn:
    """A state dict that grows."""

    def __init__(self) -> None:
        self.state: dict[str, Tensor] = {}
        self._rng = torch.Generator().manual_seed(3)

    def draw(self, name: str, *shape: int, scale: float = 0.2, around: float = 0.0) -> None:
        self.state[name] = torch.randn(shape, generator=self._rng) * scale + around

    def linear(self, name: str, out: int, into: int) -> None:
        self.draw(f"{name}.weight", out, into, scale=into**-0.5)
        self.draw(f"{name}.bias", out)

    def norm(self, name: str, width: int) -> None:
        self.draw(f"{name}.weight", width, around=1.0)
        self.draw(f"{name}.bias", width)

    def neck(self, name: str, width: int) -> None:
        self.norm(name, width)
        self.draw(f"{name}.running_mean", width)
        self.state[f"{name}.running_var"] = torch.rand(width, generator=self._rng) + 0.5
        self.state[f"{name}.num_batches_tracked"] = torch.tensor(7)


def plain_vit(prefix: str = "", *, tokens: int = 9, width: int = 64, depth: int = 6, mlp: int = 192) -> Drawn:
    """The names that timm, DINO and TransReID share."""
    drawn = Drawn()
    drawn.draw(f"{prefix}cls_token", 1, 1, width)
    drawn.draw(f"{prefix}pos_embed", 1, tokens, width)
    drawn.draw(f"{prefix}patch_embed.proj.weight", width, 3, 16, 16, scale=0.04)
    drawn.draw(f"{prefix}patch_embed.proj.bias", width)
    for block in (f"{prefix}blocks.{number}" for number in range(depth)):
        drawn.norm(f"{block}.norm1", width)
        drawn.linear(f"{block}.attn.qkv", 3 * width, width)
        drawn.linear(f"{block}.attn.proj", width, width)
        drawn.norm(f"{block}.norm2", width)
        drawn.linear(f"{block}.mlp.fc1", mlp, width)
        drawn.linear(f"{block}.mlp.fc2", width, mlp)
    drawn.norm(f"{prefix}norm", width)
    return drawn


def transreid(*, persons: int = 7, width: int = 64, **changes: int) -> dict[str, Tensor]:
    """TransReID's baseline, TransReID-SSL and PersonViT: their base has a classifier of ImageNet that nothing reads."""
    drawn = plain_vit("base.", **changes)
    drawn.linear("base.fc", 1000, 64)
    if width != 64:
        drawn.draw("fcneck.weight", width, 64)
    drawn.neck("bottleneck", width)
    drawn.draw("classifier.weight", persons, width)
    return drawn.state


def clip_reid() -> dict[str, Tensor]:
    drawn = Drawn()
    drawn.draw("classifier.weight", 7, 64)
    drawn.draw("classifier_proj.weight", 7, 32)
    drawn.neck("bottleneck", 64)
    drawn.neck("bottleneck_proj", 32)
    drawn.draw("image_encoder.class_embedding", 64)
    drawn.draw("image_encoder.positional_embedding", 9, 64)
    drawn.draw("image_encoder.proj", 64, 32)
    drawn.draw("image_encoder.conv1.weight", 64, 3, 16, 16, scale=0.04)
    drawn.norm("image_encoder.ln_pre", 64)
    for block in (f"image_encoder.transformer.resblocks.{number}" for number in range(2)):
        drawn.draw(f"{block}.attn.in_proj_weight", 192, 64)
        drawn.draw(f"{block}.attn.in_proj_bias", 192)
        drawn.linear(f"{block}.attn.out_proj", 64, 64)
        drawn.norm(f"{block}.ln_1", 64)
        drawn.linear(f"{block}.mlp.c_fc", 256, 64)
        drawn.linear(f"{block}.mlp.c_proj", 64, 256)
        drawn.norm(f"{block}.ln_2", 64)
    drawn.norm("image_encoder.ln_post", 64)
    drawn.draw("prompt_learner.cls_ctx", 7, 4, 32)
    drawn.draw("text_encoder.text_projection", 32, 32)
    return drawn.state


@pytest.mark.parametrize("neck_feat", ["before", "after"])
@pytest.mark.parametrize(("stride", "tokens"), [(16, 9), (12, 11)])
def test_transreids_baseline_and_personvit_embed_as_there(
    tmp_path: Path, neck_feat: str, stride: int, tokens: int
) -> None:
    state = transreid(tokens=tokens)
    content = {f"module.{name}": tensor for name, tensor in state.items()}
    adopted = adopt(tmp_path / "m.pth", content, stride_size=[stride, stride], neck_feat=neck_feat)
    assert (adopted.source, adopted.persons) == ("TransReID or PersonViT", 7)
    assert adopted.network.settings["pooling"] == "class"
    # 4 tensors at the beginning, 12 a block, 2 of the last norm, 4 of the neck
    assert adopted.tensors == 4 + 6 * 12 + 2 + 4
    for side in ("before", "after"):
        expected = transreid_embedding(images(), state, heads=2, stride=stride, neck_feat=side)
        assert close(embedded(adopted), expected) is (side == neck_feat)


def test_personvits_mean_of_the_patches_needs_the_word(tmp_path: Path) -> None:
    state = transreid()
    adopted = adopt(tmp_path / "m.pth", state, pooling="mean", neck_feat="before")
    expected = vit_tokens(images(), state, prefix="base.", heads=2, stride=16)[:, 1:].mean(dim=1)
    assert close(embedded(adopted), expected)


def test_personvits_reduction_has_no_bias(tmp_path: Path) -> None:
    state = transreid(width=24)
    assert refusal(tmp_path / "m.pth", state)[-1] == "  want: model.feat_dim=24, as the file has it"
    adopted = adopt(tmp_path / "m.pth", state, feat_dim=24)
    assert close(embedded(adopted), transreid_embedding(images(), state, heads=2, stride=16, neck_feat="after"))


@pytest.mark.parametrize(
    ("tokens", "fitting"),
    [(11, "model.stride_size=[12,12]"), (8, "model.input_height and model.input_width of 7 patches")],
)
def test_another_number_of_patches_is_answered_with_the_stride(tmp_path: Path, tokens: int, fitting: str) -> None:
    assert refusal(tmp_path / "m.pth", transreid(tokens=tokens)) == [
        f"{tmp_path / 'm.pth'}: weights of TransReID or PersonViT, and not of the network that the spec describes",
        "  of another shape: base.pos_embed",
        f"  want: {fitting}, as the file has it",
    ]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("base.part_token1", "part tokens (PASS)"),
        ("base.patch_embed.conv.0.weight", "a convolutional stem (ICS of TransReID-SSL)"),
        ("b1.0.norm1.weight", "the jigsaw patch module (JPM of TransReID)"),
        ("base.sie_embed", "side information of cameras or views (SIE of TransReID, CLIP-ReID)"),
        ("base.dist_token", "a distillation token (DeiT)"),
    ],
)
def test_what_no_vit_here_has_is_named(tmp_path: Path, name: str, part: str) -> None:
    found = refusal(tmp_path / "m.pth", transreid() | {name: torch.ones(1)})
    assert found[1:] == [f"  unexpected: {name}", f"  it has {part}, which the spec's network does not have"]


def test_transreids_own_vit_small_is_named(tmp_path: Path) -> None:
    assert refusal(tmp_path / "m.pth", transreid(depth=8))[-1] == (
        "  it has the 8 blocks of TransReID's own vit_small, whose attention is scaled in another way, "
        "which the spec's network does not have"
    )


def dino(*, wrapped: bool) -> dict[str, Any]:
    """DINO's checkpoint, or its published backbone."""
    if not wrapped:
        return plain_vit().state
    drawn = plain_vit("backbone.")
    drawn.linear("head.mlp.0", 32, 64)
    drawn.draw("head.last_layer.weight_v", 8, 32)
    student = {f"module.{name}": torch.zeros_like(tensor) for name, tensor in drawn.state.items()}
    return {"student": student, "teacher": drawn.state, "epoch": 3}


def test_dinos_teacher_embeds_as_there(tmp_path: Path) -> None:
    content = dino(wrapped=True)
    adopted = adopt(tmp_path / "m.pth", content, neck="")
    assert (adopted.source, adopted.persons) == ("DINO", 0)
    expected = vit_tokens(images(), content["teacher"], prefix="backbone.", heads=2, stride=16)[:, 0]
    assert close(embedded(adopted), expected)
    assert refusal(tmp_path / "m.pth", content, neck="", pooling="mean") == [
        f"{tmp_path / 'm.pth'}: weights of DINO, whose feature is the class token",
        "  found: model.pooling=mean",
        "  want:  model.pooling=class",
    ]


def test_a_file_whose_pooling_cannot_be_seen_asks_for_a_word(tmp_path: Path) -> None:
    content = dino(wrapped=False)
    assert refusal(tmp_path / "m.pth", content, neck="") == [
        f"{tmp_path / 'm.pth'}: weights of torchvision or timm, whose names do not show how a ViT's tokens are pooled",
        "  want: model.pooling=class or model.pooling=mean, as its project has it",
    ]
    tokens = vit_tokens(images(), content, prefix="", heads=2, stride=16)
    assert close(embedded(adopt(tmp_path / "m.pth", content, neck="", pooling="class")), tokens[:, 0])
    assert close(embedded(adopt(tmp_path / "m.pth", content, neck="", pooling="mean")), tokens[:, 1:].mean(dim=1))


def build(**changes: Any) -> Embedder:
    torch.manual_seed(0)
    return build_embedder(**network_settings(**(TINY | changes)))


@pytest.mark.parametrize("choice", ["imagenet", "self"])
def test_transreid_and_dino_are_first_weights_too(tmp_path: Path, choice: str) -> None:
    for content, prefix in ((transreid(), "base."), (dino(wrapped=True), "backbone.")):
        torch.save(content, tmp_path / "m.pth")
        network = build()
        report = load_pretrained(network, tmp_path / "m.pth", choice=choice, min_share=1.0)
        assert report is not None
        state = content.get("teacher", content)
        assert torch.equal(network.base.cls_token, state[f"{prefix}cls_token"])  # type: ignore[arg-type]
        assert ("bottleneck.weight" in report.matched) is (choice == "self" and prefix == "base.")


@pytest.mark.parametrize(
    ("name", "part"),
    [("part_token1", "part tokens (PASS)"), ("patch_embed.conv.0.weight", "a convolutional stem (ICS)")],
)
def test_first_weights_of_other_tokens_are_refused(tmp_path: Path, name: str, part: str) -> None:
    torch.save(plain_vit().state | {name: torch.ones(1)}, tmp_path / "m.pth")
    with pytest.raises(ArtifactError) as error:
        load_pretrained(build(), tmp_path / "m.pth", choice="imagenet", min_share=0.5)
    assert str(error.value) == (
        f"{tmp_path / 'm.pth'}: a ViT with {part}, which no network here has\n"
        "  want: weights of a ViT with a class token and patches"
    )


def test_positions_that_fit_no_grid_are_refused(tmp_path: Path) -> None:
    torch.save(plain_vit(tokens=198).state, tmp_path / "m.pth")  # DeiT's: 197 is a prime
    with pytest.raises(ArtifactError) as error:
        load_pretrained(build(), tmp_path / "m.pth", choice="imagenet", min_share=0.5)
    assert str(error.value) == (
        f"{tmp_path / 'm.pth'}: its positions fit no grid of patches: "
        "base.pos_embed (found (1, 198, 64), want (1, 9, 64))\n  want: weights of a plain ViT"
    )


@pytest.fixture
def small_clip(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timm, "create_model", partial(timm.create_model, embed_dim=64, depth=2, num_heads=2))


@pytest.mark.usefixtures("small_clip")
@pytest.mark.parametrize("neck_feat", ["before", "after"])
def test_clip_reid_embeds_as_there_with_both_features_and_necks(tmp_path: Path, neck_feat: str) -> None:
    state = clip_reid()
    adopted = adopt(tmp_path / "m.pth", state, **CLIP, neck_feat=neck_feat)
    assert (adopted.source, adopted.persons, adopted.network.embedding_size) == ("CLIP-ReID", 0, 96)
    expected = clip_reid_embedding(images(), state, heads=2, stride=16, neck_feat=neck_feat)
    assert close(embedded(adopted), expected)


@pytest.mark.usefixtures("small_clip")
def test_what_the_spec_must_say_for_clip_reid_is_named(tmp_path: Path) -> None:
    state = clip_reid()
    assert refusal(tmp_path / "m.pth", state, **(CLIP | {"feat_dim": None}))[-1] == (
        "  want: model.feat_dim=96, as the file has it"
    )
    assert refusal(tmp_path / "m.pth", state, **(CLIP | {"backbone": "timm/vit_base_patch16_clip_224"})) == [
        f"{tmp_path / 'm.pth'}: weights of CLIP-ReID, whose activation is QuickGELU",
        "  found: model.backbone=timm/vit_base_patch16_clip_224 in the spec",
        "  want:  model.backbone=timm/vit_base_patch16_clip_quickgelu_224",
    ]
