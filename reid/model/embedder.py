"""The network: backbone, pooling, reduction, BNNeck, classifier.

Luo et al. 2019, arXiv:1903.07071 (BNNeck); as TAO builds it.

Shapes: B images, C channels, H height, W width, D width of the features, P persons (classes).
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from reid.errors import SpecError
from reid.model.backbones import build_backbone, class_token, feature_map, has_class_token, is_swin
from reid.model.osnet import FullyConnected, OSNet
from reid.model.pooling import POOLINGS, resolve_pooling


class Embedder(nn.Module):
    """A backbone with the head of person re-identification; `build_embedder` builds it.

    Its parts are base, pool, reduction, bottleneck (the BNNeck) and classifier; `settings` are the values that
    build_embedder takes.
    """

    def __init__(
        self,
        base: nn.Module,
        *,
        pooling: str,
        reduction: nn.Module,
        neck: str,
        neck_feat: str,
        with_flip_feature: bool,
        num_classes: int,
        dropout_rate: float,
        id_loss_type: str,
        settings: dict[str, Any],
    ) -> None:
        super().__init__()
        self.base = base
        self.encode = class_token if pooling == "class" else feature_map
        self.pool = POOLINGS[pooling]()
        self.reduction = reduction
        self.bottleneck: nn.Module = nn.Identity()
        own_width = int(base.num_features)  # type: ignore[arg-type]
        self.embedding_size = int(getattr(reduction, "out_features", own_width))
        self.dropout = nn.Dropout(dropout_rate)
        gives_cosines = id_loss_type != "softmax"
        layer = CosineClassifier if gives_cosines else nn.Linear
        self.classifier = layer(self.embedding_size, num_classes, bias=not neck and not gives_cosines)
        if neck:
            self.bottleneck = nn.BatchNorm1d(self.embedding_size)
            self.bottleneck.bias.requires_grad_(False)
            nn.init.normal_(self.classifier.weight, std=0.001)
        if gives_cosines:  # its length decides how fast it turns, as the gradient is divided by it
            nn.init.xavier_uniform_(self.classifier.weight)
        self.num_classes = num_classes
        self.neck_feat = neck_feat
        self.with_flip_feature = with_flip_feature
        self.settings = settings

    def features(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> features (B, D), before the BNNeck."""
        return _in_float32(self._pooled, self.encode(self.base, images))

    def _pooled(self, encoded: Tensor) -> Tensor:
        # TAO reduces by a 1 x 1 convolution and takes the mean then. Both are linear, so pooling first gives the same
        # features for 1 / (h w) of the multiplications.
        reduced: Tensor = self.reduction(self.pool(encoded))
        return reduced

    def _classified(self, features: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.dropout(self.bottleneck(features)))
        return logits

    def embed(self, images: Tensor) -> Tensor:
        """images (B, C, H, W) -> embedding (B, D): the features after or before the BNNeck, of any length."""
        features = self.features(images)
        if self.neck_feat == "before":
            return features
        embedding: Tensor = self.bottleneck(features)
        return embedding

    def forward(self, images: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        """images (B, C, H, W) -> in training (features (B, D) before the BNNeck, logits (B, P)); else embedding (B, D).

        For an identity loss with a margin the logits are cosines.
        With with_flip_feature the embedding is the sum over the image and its mirror image, in an exported network too.
        """
        if self.training:
            features = self.features(images)
            return features, _in_float32(self._classified, features)
        if self.with_flip_feature:
            return self.embed(images) + self.embed(images.flip(3))
        return self.embed(images)


class CosineClassifier(nn.Linear):
    """The cosine between features and the vector of each person, the rows of `weight`: in -1..1, without a bias.

    The losses with a margin (reid.training.losses) make logits of it; so the network need not know the label.
    """

    def forward(self, features: Tensor) -> Tensor:
        """features (B, D) -> cosines (B, P)."""
        return F.linear(F.normalize(features), F.normalize(self.weight))


def _in_float32(function: Callable[[Tensor], Tensor], values: Tensor) -> Tensor:
    """Computes the head in float32 in a bf16 training too: that costs little, and losses need exact distances."""
    kind = values.device.type
    if not torch.is_autocast_enabled(kind):
        return function(values)
    with torch.autocast(kind, enabled=False):
        return function(values.float())


def build_embedder(
    *,
    backbone: str,
    last_stride: int,
    stem_relu: bool,
    stem_pool: str,
    pooling: str,
    neck: str,
    neck_feat: str,
    feat_dim: int | None,
    with_flip_feature: bool,
    input_channels: int,
    height: int,
    width: int,
    num_classes: int,
    drop_path: float,
    drop_out: float,
    att_drop_rate: float,
    dropout_rate: float,
    reduce_feat_dim: bool,
    semantic_weight: float,
    stride_size: Sequence[int] | None,
    id_loss_type: str,
) -> Embedder:
    """The network of a spec's model section, with random weights; `stem_relu` is resolved by weights.resolve_stem_relu.

    Its settings have the pooling that auto stands for. Raises SpecError for an unknown backbone, neck or neck_feat, and
    for a pooling that the backbone does not have.
    """
    settings = dict(locals())
    _check_neck(neck, neck_feat)
    base = build_backbone(
        backbone,
        last_stride=last_stride,
        stem_relu=stem_relu,
        stem_pool=stem_pool,
        input_channels=input_channels,
        height=height,
        width=width,
        drop_path=drop_path,
        drop_out=drop_out,
        att_drop_rate=att_drop_rate,
        semantic_weight=semantic_weight,
        stride_size=stride_size,
    )
    settings["pooling"] = resolve_pooling(pooling, has_class_token=has_class_token(base), backbone=backbone)
    return Embedder(
        base,
        pooling=settings["pooling"],
        reduction=_reduction(base, feat_dim=feat_dim, reduce_feat_dim=reduce_feat_dim),
        neck=neck,
        neck_feat=neck_feat,
        with_flip_feature=with_flip_feature,
        num_classes=num_classes,
        dropout_rate=dropout_rate,
        id_loss_type=id_loss_type,
        settings=settings,
    )


def _check_neck(neck: str, neck_feat: str) -> None:
    for field, found, wanted in (("neck", neck, ("bnneck", "")), ("neck_feat", neck_feat, ("after", "before"))):
        if found not in wanted:
            raise SpecError(f"model.{field}: found {found!r}\n  want: {' or '.join(map(repr, wanted))}")


def _reduction(base: nn.Module, *, feat_dim: int | None, reduce_feat_dim: bool) -> nn.Module:
    """The layer from the backbone's width to feat_dim, as in TAO; an identity if nothing is to be reduced.

    A Swin is reduced only with reduce_feat_dim, and without a bias; an OSNet has torchreid's layer, of any width,
    unless feat_dim is None; any other backbone is reduced if feat_dim is not its width.
    """
    own_width = int(base.num_features)  # type: ignore[arg-type]
    if isinstance(base, OSNet) and feat_dim is not None:
        return FullyConnected(own_width, feat_dim)
    if feat_dim is None or feat_dim == own_width:
        return nn.Identity()
    if not is_swin(base):
        return nn.Linear(own_width, feat_dim)
    if not reduce_feat_dim:
        return nn.Identity()
    reduction = nn.Linear(own_width, feat_dim, bias=False)
    nn.init.xavier_uniform_(reduction.weight)
    return reduction
