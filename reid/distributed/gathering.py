"""Puts the ranks' parts of a batch together inside a training step; lightning.py says how losses are mined with it.

Shapes: B images of the global batch, W ranks, B/W on each, D width of the features, F figures.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def ranks() -> int:
    """W: how many processes train together; 1 in a single process."""
    return dist.get_world_size() if dist.is_initialized() else 1


def whole_batch(part: Tensor) -> Tensor:
    """part (B/W, ...) of this rank -> (B, ...), the parts of all ranks in their order.

    The gradient flows into this rank's own part only; the other parts are constants here. A loss of the whole batch,
    which every rank computes alike, must therefore be multiplied by W before `backward`: the gradient is the sum over
    the ranks, and DistributedDataParallel takes their mean. In return no rank sends gradients of features to others.
    """
    if ranks() == 1:
        return part
    parts = [torch.empty_like(part) for _ in range(ranks())]
    dist.all_gather(parts, part.detach().contiguous())
    parts[dist.get_rank()] = part
    return torch.cat(parts)


def mean_over_ranks(figures: Tensor) -> Tensor:
    """figures (F,) of this rank -> their mean over all ranks, bit for bit the same on each."""
    if ranks() == 1:
        return figures
    total = figures.clone()
    dist.all_reduce(total)
    return total / ranks()
