"""The losses of training: cross-entropy, plain or with a margin between persons; batch-hard triplet; centre loss.

The losses with a margin take cosines: the classifier of the network gives the cosine between the features and each
person's vector (the row of its weights), and the loss alone knows the label, margin m and scale s.

Shapes: B images of a batch, D width of the features, P persons.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

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


class CosineMargin(nn.CrossEntropyLoss, ABC):
    """Cross-entropy of logits that are cosines with a margin and a scale; what the margin is, a subclass says.

    Label smoothing, if there is any, is that of the cross-entropy of these logits.
    """

    def __init__(self, *, margin: float, scale: float, epsilon: float) -> None:
        super().__init__(label_smoothing=epsilon)
        self.margin, self.scale = margin, scale

    def forward(self, cosine: Tensor, person: Tensor) -> Tensor:
        """cosine (B, P), person (B,) int64 class indices 0..P-1 -> scalar float32."""
        return super().forward(self.logits(cosine.float(), person), person)

    @abstractmethod
    def logits(self, cosine: Tensor, person: Tensor) -> Tensor:
        """cosine (B, P), person (B,) -> logits (B, P)."""


class ArcFace(CosineMargin):
    """Cross-entropy of s cos(theta + m) for the label and s cos(theta) for the others, theta being the angles.

    Deng et al., CVPR 2019, arXiv:1801.07698, eq. 3. Beyond theta = pi - m, where cos(theta + m) would rise again, the
    label has cos(theta) - m sin(m), as in the authors' code.
    """

    def logits(self, cosine: Tensor, person: Tensor) -> Tensor:
        """cosine (B, P), person (B,) -> logits (B, P)."""
        # the slope of the square root is infinite at 0, where theta is 0 or pi: there the sine counts as a constant
        sine = (1 - cosine.square()).clamp(min=1e-7).sqrt()
        moved = cosine * math.cos(self.margin) - sine * math.sin(self.margin)
        moved = torch.where(cosine > -math.cos(self.margin), moved, cosine - self.margin * math.sin(self.margin))
        return self.scale * torch.where(_is_label(cosine, person), moved, cosine)


class CosFace(CosineMargin):
    """Cross-entropy of s (cos(theta) - m) for the label and s cos(theta) for the others.

    Wang et al., CVPR 2018, arXiv:1801.09414, eq. 4; the same as AM-Softmax (Wang et al. 2018, arXiv:1801.05599).
    """

    def logits(self, cosine: Tensor, person: Tensor) -> Tensor:
        """cosine (B, P), person (B,) -> logits (B, P)."""
        return self.scale * torch.where(_is_label(cosine, person), cosine - self.margin, cosine)


class CircleSoftmax(CosineMargin):
    """Cross-entropy of s [1 + m - c]+ (c - 1 + m) for the label's cosine c and s [c + m]+ (c - m) for the others.

    The circle loss with class vectors: Sun et al., CVPR 2020, arXiv:2002.10857, eq. 5 to 8 and 13. The factors [...]+
    say how far a cosine is from its optimum, and have no gradient. The paper has s = 256 and m = 0.25, fast-reid's SBS
    64 and 0.35.
    """

    def logits(self, cosine: Tensor, person: Tensor) -> Tensor:
        """cosine (B, P), person (B,) -> logits (B, P)."""
        fixed = cosine.detach()
        of_label = F.relu(1 + self.margin - fixed) * (cosine - (1 - self.margin))
        of_others = F.relu(fixed + self.margin) * (cosine - self.margin)
        return self.scale * torch.where(_is_label(cosine, person), of_label, of_others)


def _is_label(cosine: Tensor, person: Tensor) -> Tensor:
    """(B, P), person (B,) -> (B, P) bool, true at each image's own person."""
    return torch.arange(cosine.shape[1], device=cosine.device) == person[:, None]


MARGIN_LOSSES: dict[str, Callable[..., CosineMargin]] = {
    "arcface": ArcFace,
    "cosface": CosFace,
    "amsoftmax": CosFace,
    "circle": CircleSoftmax,
}
"""The spec's name of an identity loss on cosines -> the loss."""


class BatchHardTriplet(nn.Module):
    """Each anchor against its farthest positive and its nearest negative.

    Hermans et al. 2017, arXiv:1703.07737, eq. 5; Euclidean, so the margin has the unit of the features. A person
    may have any number of images in the batch. The paper's P x K batches give every anchor a positive; here the
    mean is over the anchors that have both a positive other than themselves and a negative. If no anchor has both, the
    loss and its gradient are 0. Without a margin it is the soft margin, ln(1 + exp(positive - negative)) (section 3.2).
    """

    def __init__(self, *, margin: float | None) -> None:
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
        difference = hardest_positive - hardest_negative
        hinge = F.softplus(difference) if self.margin is None else F.relu(difference + self.margin)
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
