"""Exact nearest neighbours of every vector among all, on the device of the vectors. N vectors, D values, K neighbours.

As in reid.retrieval.knn, similarities come in float32 blocks of rows, a few more candidates than wanted are kept, and
their distances are computed again in float64, so that the neighbours are those of a stable sort of exact distances.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from reid.console.progress import Progress
from reid.retrieval.knn import LENGTH_TOLERANCE, SPARE, near_tie_margin
from reid.retrieval.parallel import row_ranges
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import squared_distances

PAIR_BYTES = 64
"""The most memory that one pair of vectors takes while it is compared in float64 and sorted."""


class Neighbours(NamedTuple):
    """The K nearest of each of N vectors, the vector itself included."""

    nearest: Tensor
    """(N, K) int64: the nearest first, equally near ones by index."""
    farthest: Tensor
    """(N,) float32: squared distance to the farthest of all vectors."""


def nearest_neighbours(vectors: Tensor, *, count: int) -> Neighbours:
    """vectors (N, D) float32 of length 1 -> the `count` nearest of each among all N, or all of them if count > N.

    Raises ValueError if a vector's length is not 1. Products must be exact: call it inside `float32_products`.
    """
    check_lengths(vectors)
    total, device = len(vectors), vectors.device
    kept, count = min(count + SPARE, total), min(count, total)
    margin = near_tie_margin(vectors.shape[1])
    nearest = torch.empty(total, count, dtype=torch.int64, device=device)
    farthest = torch.empty(total, device=device)
    crowded = [torch.empty(0, dtype=torch.int64, device=device)]
    with Progress("nearest neighbours", total, "vectors") as progress:
        for first, end in row_ranges(total, size=max(1, exactness.BLOCK_BYTES // (4 * total))):
            similarity = vectors[first:end] @ vectors.T
            farthest[first:end] = (2 - 2 * similarity.amin(dim=1)).clamp(min=0)
            best = similarity.topk(kept, dim=1)
            nearest[first:end] = _sort_exactly(vectors, first, best.indices)[:, :count]
            if kept < total:  # there may be vectors as near as the last one wanted that are no candidates
                near_ties = best.values[:, count - 1] - best.values[:, -1] <= margin
                crowded.append(first + near_ties.nonzero()[:, 0])
            progress.update(end)
    again = torch.cat(crowded)
    with Progress("near-ties", len(again), "vectors") as progress:
        for first, end in row_ranges(len(again), size=max(1, exactness.BLOCK_BYTES // (PAIR_BYTES * total))):
            rows = again[first:end]
            nearest[rows] = _search_among_all(vectors, rows, count, margin)
            progress.update(end)
    return Neighbours(nearest, farthest)


def check_lengths(vectors: Tensor) -> None:
    """Raises ValueError unless every row of vectors (N, D) has Euclidean length 1."""
    size = max(1, exactness.BLOCK_BYTES // (8 * vectors.shape[1]))
    length = torch.cat([part.double().norm(dim=1) for part in torch.split(vectors, size)])
    bad = (~((length - 1).abs() <= LENGTH_TOLERANCE)).nonzero()[:, 0]
    if len(bad):
        raise ValueError(
            f"vectors: {len(bad)} of {len(vectors)} do not have length 1; "
            f"first: row {int(bad[0])}, length {float(length[bad[0]]):.7g}; l2_normalize them"
        )


def _sort_exactly(vectors: Tensor, first_row: int, candidates: Tensor) -> Tensor:
    """candidates (n, C) of the vectors from `first_row` on -> the same, nearest first, equally near ones by index."""
    rows, kept = candidates.shape
    by_index = candidates.sort(dim=1).values
    row = torch.arange(first_row, first_row + rows, device=vectors.device).repeat_interleave(kept)
    distance = squared_distances(vectors, row, by_index.flatten()).view(rows, kept)
    return by_index.gather(1, distance.sort(dim=1, stable=True).indices)


def _search_among_all(vectors: Tensor, rows: Tensor, count: int, margin: float) -> Tensor:
    """The `count` nearest of the vectors at rows (n,): all within `margin` of the last of them, compared in float64."""
    similarity = vectors[rows] @ vectors.T
    bar = similarity.topk(count, dim=1).values[:, -1:] - margin
    owner, other = (similarity >= bar).nonzero(as_tuple=True)  # by row, then by index
    order = squared_distances(vectors, rows[owner], other).sort(stable=True).indices
    order = order[owner[order].sort(stable=True).indices]
    sizes = owner.bincount(minlength=len(rows))
    begin = sizes.cumsum(0) - sizes
    return other[order[begin[:, None] + torch.arange(count, device=rows.device)]]
