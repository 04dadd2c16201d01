"""The losses that a spec chooses, put together."""

from torch import nn

from reid.training.losses import MARGIN_LOSSES, BatchHardTriplet, CenterLoss, LabelSmoothedCrossEntropy

LABEL_SMOOTHING = 0.1
OF_THE_WHOLE_BATCH = {"triplet"}
"""Losses whose pairs are mined over all ranks."""


def build_losses(
    *,
    sampler: str,
    metric_loss_type: str,
    with_center_loss: bool,
    label_smooth: bool,
    id_loss_type: str,
    cosine_margin: float,
    cosine_scale: float,
    triplet_loss_margin: float | None,
    num_classes: int,
    embedding_size: int,
) -> nn.ModuleDict:
    """The losses that a spec names, under cross_entropy, triplet and center; their weighted sum is the training loss.

    softmax: cross-entropy alone; triplet: the metric losses alone; softmax_triplet: both. The metric losses are those
    of metric_loss_type, plus the centre loss if with_center_loss is set. The cross-entropy is of logits if id_loss_type
    is softmax, else of cosines with cosine_margin and cosine_scale. triplet_loss_margin: None is the soft margin.
    """
    losses: dict[str, nn.Module] = {}
    if sampler != "triplet":
        epsilon = LABEL_SMOOTHING if label_smooth else 0.0
        if id_loss_type == "softmax":
            losses["cross_entropy"] = LabelSmoothedCrossEntropy(epsilon=epsilon)
        else:
            loss = MARGIN_LOSSES[id_loss_type]
            losses["cross_entropy"] = loss(margin=cosine_margin, scale=cosine_scale, epsilon=epsilon)
    if sampler != "softmax":
        if "triplet" in metric_loss_type:
            losses["triplet"] = BatchHardTriplet(margin=triplet_loss_margin)
        if with_center_loss:
            losses["center"] = CenterLoss(num_classes=num_classes, embedding_size=embedding_size)
    return nn.ModuleDict(losses)
