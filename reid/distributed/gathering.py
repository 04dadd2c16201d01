"""One batch out of the ranks' parts of it, inside a training step.

Shapes: B images of the global batch, W ranks, B/W on each, D width of the features, F figures.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """W: how many processes train together; 1 alone."""
    return dist.get_world_size() if dist.is_initialized() else 1


def whole_batch(part: Tensor) -> Tensor:
    """part (B/W, ...) of this rank -> (B, ...), all ranks' parts in their order.

    The gradient flows into this rank's own part only. So a loss of the whole batch, which every rank then computes
    alike, must be multiplied by W before `backward`: DistributedDataParallel takes the mean over the ranks, and the sum
    of all parts is the gradient. No rank has to send gradients of features around.
    """
    if ranks() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(ranks())]
    dist.all_gather(parts, part.detach().contiguous())
    parts[dist.get_rank()] = part
    return torch.cat(parts)


def mean_over_ranks(figures: Tensor) -> Tensor:
    """figures (F,) of this rank -> their mean over all ranks, the same bits on each; nothing waits for it."""
    if ranks() == 1:
        return figures
    total = figures.clone()
    dist.all_reduce(total)
    return total / ranks()
