"""What a spec says of the network and of its input: build_embedder's keyword values, and the preprocessing contract."""

from typing import Any

from reid.contract import Contract
from reid.spec import Experiment

NETWORK_FIELDS = {
    "backbone", "last_stride", "stem_pool", "neck", "neck_feat", "feat_dim", "with_flip_feature", "input_channels",
    "drop_path", "drop_out", "att_drop_rate", "dropout_rate", "reduce_feat_dim", "semantic_weight",
}  # fmt: skip
"""Of the spec's model section: those that build_embedder takes under the same name."""


def network_values(spec: Experiment) -> dict[str, Any]:
    """The keyword values of build_embedder, but those that the weights have a say in: stem_relu and num_classes."""
    section = spec.model
    return section.model_dump(include=NETWORK_FIELDS) | {"height": section.input_height, "width": section.input_width}


def contract_of(spec: Experiment, embedding_size: int) -> Contract:
    """How the spec's images become the input of its network, whose embedding is so wide."""
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
