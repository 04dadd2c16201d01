"""The losses that a spec chooses, put together."""

from torch import nn

from reid.training.losses import BatchHardTriplet, CenterLoss, LabelSmoothedCrossEntropy

LABEL_SMOOTHING = 0.1
OF_THE_WHOLE_BATCH = {"triplet"}
"""Losses whose pairs are mined over all ranks."""


def build_losses(
    *,
    sampler: str,
    metric_loss_type: str,
    with_center_loss: bool,
    label_smooth: bool,
    triplet_loss_margin: float,
    num_classes: int,
    embedding_size: int,
) -> nn.ModuleDict:
    """The losses that a spec names, under cross_entropy, triplet and center; their sum is the training loss.

    softmax: cross-entropy alone; triplet: the metric losses alone; softmax_triplet: both. The metric losses are those
    of metric_loss_type, plus the centre loss if with_center_loss is set.
    """
    losses: dict[str, nn.Module] = {}
    if sampler != "triplet":
        losses["cross_entropy"] = LabelSmoothedCrossEntropy(epsilon=LABEL_SMOOTHING if label_smooth else 0.0)
    if sampler != "softmax":
        if "triplet" in metric_loss_type:
            losses["triplet"] = BatchHardTriplet(margin=triplet_loss_margin)
        if with_center_loss:
            losses["center"] = CenterLoss(num_classes=num_classes, embedding_size=embedding_size)
    return nn.ModuleDict(losses)
