"""Settings that make float32 products on a GPU as exact as those of the CPU, and distances that are exact anywhere.

P pairs of vectors, D values each.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from reid.retrieval.copies import Copies

BLOCK_BYTES = 256 << 20
"""Approximate largest size of a temporary tensor."""


@contextmanager
def float32_products(device: torch.device) -> Iterator[None]:
    """Inside the block products are full float32, whatever was set before: no TF32, bf16, autocast or gradients."""
    cpu = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    products = torch.backends.cuda.matmul if device.type == "cuda" else cpu
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            yield
    finally:
        products.fp32_precision = before


def padded(vectors: Tensor) -> Tensor:
    """vectors (N, D) -> (N, D rounded up to a multiple of 4), filled with zeros: no product or distance changes."""
    spare = -vectors.shape[1] % 4
    return torch.nn.functional.pad(vectors, (0, spare)) if spare else vectors


def squared_distances(vectors: Tensor, row: Tensor, column: Tensor) -> Tensor:
    """vectors (N, D) float32, row and column (P,) -> (P,) float64: squared Euclidean distance of each pair.

    Distances to equal vectors are equal, and a vector's to itself is zero, because every sum has one and the same
    order. On a GPU D must be a multiple of 4 for that, as `padded` makes it: the order there depends on the place in a
    word of 32 bytes at which a row begins.
    """
    found = torch.empty(len(row), dtype=torch.float64, device=vectors.device)
    pairs = max(1, BLOCK_BYTES // (24 * vectors.shape[1]))
    for begin in range(0, len(row), pairs):
        # parts of one size, the last overlapping: the order of a sum may depend on the tensor's shape
        first = max(0, min(begin, len(row) - pairs))
        part = slice(first, first + pairs)
        gap = vectors[row[part]].double() - vectors[column[part]]
        found[part] = gap.square_().sum(dim=1)
    return found


def copies_among(vectors: Tensor) -> Copies:
    """`Copies.among` for vectors (N, D) float32 on a device: only vectors of keys that are not unique are copied."""
    # as in Copies.among, an even weight drops the sign
    weights = 2 * torch.randint(1 << 30, (vectors.shape[1],), generator=torch.Generator().manual_seed(0))
    weights = weights.int().to(vectors.device)
    size = max(1, BLOCK_BYTES // (8 * vectors.shape[1]))
    words = torch.split(vectors.view(torch.int32), size)
    keys = torch.cat([(part * weights).sum(dim=1, dtype=torch.int32) for part in words])
    _, group, sizes = torch.unique(keys, return_inverse=True, return_counts=True)
    shared = (sizes[group] > 1).nonzero()[:, 0]
    rows = shared.cpu().numpy()
    found = Copies.of_equal_keys(keys[shared].cpu().numpy(), vectors[shared].cpu().numpy())
    return Copies(rows[found.later], rows[found.first])
