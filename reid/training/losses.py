"""The losses of training: label-smoothed cross-entropy, batch-hard triplet, centre loss.

Shapes: B images of a batch, D width of the features, P persons.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LabelSmoothedCrossEntropy(nn.CrossEntropyLoss):
    """Cross-entropy of the logits (B, P) against (1 - epsilon) one-hot + epsilon / P; 0 is the plain cross-entropy.

    Szegedy et al., CVPR 2016, arXiv:1512.00567, section 7. Raises ValueError for an epsilon outside 0..1 when it is
    called.
    """

    def __init__(self, *, epsilon: float) -> None:
        super().__init__(label_smoothing=epsilon)


class BatchHardTriplet(nn.Module):
    """Each anchor against its farthest positive and its nearest negative.

    Hermans et al. 2017, arXiv:1703.07737, eq. 5; Euclidean, so the margin has the unit of the features. A person
    may have any number of images in the batch. The paper's P x K batches give every anchor a positive; here the
    mean is over the anchors that have both a positive other than themselves and a negative. If no anchor has both, the
    loss and its gradient are 0.
    """

    def __init__(self, *, margin: float) -> None:
        super().__init__()
        self.margin = margin

    def forward(self, features: Tensor, person: Tensor) -> Tensor:
        """features (B, D), person (B,) int64 -> scalar float32."""
        # differences, not |a|^2 + |b|^2 - 2ab: the latter rounds near-duplicates to a distance that isn't theirs;
        # cdist's gradient at distance 0 is 0, so that the same image twice in a batch gives no NaN
        features = features.float()
        distance = torch.cdist(features, features, compute_mode="donot_use_mm_for_euclid_dist")  # (B, B)
        same = person[:, None] == person[None, :]  # (B, B)
        itself = torch.eye(len(person), dtype=torch.bool, device=person.device)
        complete = (same & ~itself).any(dim=1) & (~same).any(dim=1)  # (B,)
        hardest_positive = distance.masked_fill(~same, -torch.inf).amax(dim=1)
        hardest_negative = distance.masked_fill(same, torch.inf).amin(dim=1)
        hinge = F.relu(hardest_positive - hardest_negative + self.margin)
        # not hinge[complete].mean(), for which the host would wait in every step to learn how many are complete
        return torch.where(complete, hinge, 0.0).sum() / complete.sum().clamp(min=1)


class CenterLoss(nn.Module):
    """The squared distance of the features to the learned centre of their person.

    Wen et al., ECCV 2016, eq. 2, but the mean over the batch and without the half, as reid-strong-baseline has it:
    its weight of 5e-4 (Luo et al. 2019, arXiv:1903.07071, eq. 5) belongs to that scale. `centers` (P, D) is the
    only parameter. It has its own learning rate (Wen's alpha), so it needs an optimiser of its own, and the loss weight
    must be divided out of its gradient.
    """

    def __init__(self, *, num_classes: int, embedding_size: int) -> None:
        super().__init__()
        self.centers = nn.Parameter(torch.randn(num_classes, embedding_size))

    def forward(self, features: Tensor, person: Tensor) -> Tensor:
        """features (B, D), person (B,) int64 class indices 0..P-1 -> scalar float32."""
        return (features.float() - self.centers[person]).square().sum(dim=1).mean()
