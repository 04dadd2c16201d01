"""The network and its input as a spec describes them: keywords for build_embedder, and the preprocessing contract."""

from typing import TypedDict

from reid.contract import Contract
from reid.spec import Experiment


class NetworkValues(TypedDict):
    """Keyword values of build_embedder that the spec alone decides; weights decide stem_relu and num_classes."""

    backbone: str
    last_stride: int
    stem_pool: str
    pooling: str
    input_channels: int
    neck: str
    feat_dim: int | None
    neck_feat: str
    with_flip_feature: bool
    drop_path: float
    drop_out: float
    att_drop_rate: float
    dropout_rate: float
    reduce_feat_dim: bool
    semantic_weight: float
    stride_size: list[int] | None
    id_loss_type: str
    height: int
    width: int


def network_values(spec: Experiment) -> NetworkValues:
    """The spec's network as keywords for build_embedder, which also takes stem_relu and num_classes."""
    model = spec.model
    return NetworkValues(
        backbone=model.backbone,
        last_stride=model.last_stride,
        stem_pool=model.stem_pool,
        pooling=model.pooling,
        input_channels=model.input_channels,
        neck=model.neck,
        feat_dim=model.feat_dim,
        neck_feat=model.neck_feat,
        with_flip_feature=model.with_flip_feature,
        drop_path=model.drop_path,
        drop_out=model.drop_out,
        att_drop_rate=model.att_drop_rate,
        dropout_rate=model.dropout_rate,
        reduce_feat_dim=model.reduce_feat_dim,
        semantic_weight=model.semantic_weight,
        stride_size=model.stride_size,
        id_loss_type=model.id_loss_type,
        height=model.input_height,
        width=model.input_width,
    )


def contract_of(spec: Experiment, embedding_size: int) -> Contract:
    """The preprocessing contract of the spec's network, whose embedding has `embedding_size` entries."""
    channels = spec.model.input_channels

    def per_channel(values: list[float]) -> tuple[float, ...]:
        return tuple(values) if len(values) == channels else (sum(values) / len(values),)  # grey from RGB's figures

    return Contract(
        height=spec.model.input_height,
        width=spec.model.input_width,
        channels=channels,
        mean=per_channel(spec.dataset.pixel_mean),
        std=per_channel(spec.dataset.pixel_std),
        embedding=embedding_size,
        flip=spec.model.with_flip_feature,
        channel_order="RGB" if channels == 3 else "L",
    )
