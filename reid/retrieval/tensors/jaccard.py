"""k-reciprocal encoding and the Jaccard distance between encodings, as sparse rows on the device of the vectors.

It computes the same as reid.retrieval.jaccard, without loops: sets are rows padded with -1, and rows of different
lengths are gathered by index. No sum depends on the order in which a GPU's threads finish, so results repeat to the bit
on one device.
N vectors (the queries, then the gallery), G gallery images, K neighbours, E entries; equations of Zhong et al., CVPR
2017, arXiv:1701.08398.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from reid.retrieval.parallel import row_ranges
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import squared_distances
from reid.retrieval.tensors.knn import Neighbours

ENTRY_BYTES = 64
"""The most memory that one entry takes while it is gathered, sorted and summed."""


class SparseRows(NamedTuple):
    """A sparse matrix: row r holds value[start[r]:start[r + 1]] in the columns column[start[r]:start[r + 1]]."""

    start: Tensor
    column: Tensor
    """int32, to save memory."""
    value: Tensor

    def sizes(self) -> Tensor:
        """Number of entries of each row."""
        return self.start.diff()

    def head(self, rows: int) -> "SparseRows":
        """A copy of the first rows."""
        end = int(self.start[rows])
        return SparseRows(self.start[: rows + 1].clone(), self.column[:end].clone(), self.value[:end].clone())

    def entries_of(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """rows (R,) -> all their entries (E,), row after row, and for each entry the index in `rows` of its row."""
        sizes = self.start[rows + 1] - self.start[rows]
        owner = torch.arange(len(rows), device=rows.device).repeat_interleave(sizes)
        skip = self.start[rows] - (sizes.cumsum(0) - sizes)
        return torch.arange(len(owner), device=rows.device) + skip[owner], owner


def encode(vectors: Tensor, neighbours: Neighbours, *, k1: int) -> SparseRows:
    """Row i: exp(-distance(i, j) / farthest(i)) for the members j of i's expanded set, over their sum. (N, N) sparse.

    The sets of eq. 2 to 4 with the weights of eq. 7. As in the authors' code a vector is its own first neighbour, hence
    k1 + 1 of them, and round(k1 / 2) + 1 for the half sets, a half rounded to even.
    """
    total, width = neighbours.nearest.shape
    full, half = min(k1 + 1, width), min(round(k1 / 2) + 1, width)
    size = max(1, exactness.BLOCK_BYTES // (full * half * (full + 16)))
    blocks = row_ranges(total, size=size)
    half_sets = torch.cat([_reciprocal(neighbours.nearest, *block, half) for block in blocks])
    return _stack([_encode_rows(vectors, neighbours, block, full, half_sets) for block in blocks])


def expand(encoding: SparseRows, nearest: Tensor, *, k2: int) -> SparseRows:
    """Local query expansion, eq. 11: row i becomes the mean of the rows of its k2 nearest, itself among them.

    As in the authors' code k2 = 1 changes nothing, even if an equal vector of lower index comes before i itself.
    """
    if k2 == 1:
        return encoding
    nearest = nearest[:, :k2]
    entries = encoding.sizes()[nearest].sum(dim=1)
    return _stack([_expand_rows(encoding, nearest[first:end]) for first, end in _blocks_of(entries)])


def invert(encoding: SparseRows, first_row: int) -> SparseRows:
    """The inverted index of the rows from `first_row` on: for each column, which rows have it and with what weight.

    As sparse rows it is (N, rows); rows are counted from first_row.
    """
    total = len(encoding.start) - 1
    begin = encoding.start[first_row]
    column = encoding.column[begin:]
    row = torch.arange(total - first_row, dtype=torch.int32, device=column.device)
    row = row.repeat_interleave(encoding.sizes()[first_row:])
    order = column.argsort(stable=True)
    sizes = torch.bincount(column, minlength=total)
    return SparseRows(_starts(sizes), row[order], encoding.value[begin:][order])


class Encoded(NamedTuple):
    """The encodings and scales from which the final distances are computed."""

    query: SparseRows
    """(Q, N)."""
    gallery_by_column: SparseRows
    """(N, G)."""
    farthest: Tensor
    """(Q,) or more: scale of the original distance."""


def blend(encoded: Encoded, first_query: int, lambda_value: float, distance: Tensor) -> Tensor:
    """Turns distance (rows, G), cosines of the queries from `first_query` on, into final distances, in place.

    Eq. 12 over eq. 10: as encodings sum to 1, the Jaccard distance is 1 - m / (2 - m), where m is the sum over the
    columns of the smaller of both weights.
    """
    query, gallery = encoded.query, encoded.gallery_by_column
    rows, images = distance.shape
    shared = torch.zeros(rows * images, device=distance.device)
    wanted = torch.arange(first_query, first_query + rows, device=distance.device)
    entry, owner = query.entries_of(wanted)
    column, weight = query.column[entry].long(), query.value[entry]
    for first, end in _blocks_of(gallery.sizes()[column]):
        other, of = gallery.entries_of(column[first:end])
        cell = owner[first:end][of] * images + gallery.column[other]
        shared.index_put_((cell,), torch.minimum(weight[first:end][of], gallery.value[other]), accumulate=True)
    shared = shared.view(rows, images)
    farthest = encoded.farthest[first_query : first_query + rows, None]
    original_part = torch.where(farthest > 0, 2 * lambda_value / farthest, 0.0)
    distance.neg_().add_(1).clamp_(min=0).mul_(original_part)
    jaccard = shared.div_(2 - shared).neg_().add_(1)
    return distance.add_(jaccard, alpha=1 - lambda_value)


def _reciprocal(nearest: Tensor, first: int, end: int, count: int) -> Tensor:
    """R(row, count) of eq. 2 (n, count): the `count` nearest, with -1 for each that does not have row among its own."""
    forward = nearest[first:end, :count]
    row = torch.arange(first, end, device=nearest.device)
    mutual = (nearest[:, :count][forward] == row[:, None, None]).any(dim=2)
    return forward.masked_fill(~mutual, -1)


def _encode_rows(
    vectors: Tensor, neighbours: Neighbours, rows: tuple[int, int], full: int, half_sets: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """(sizes, columns, values) of the rows from rows[0] to before rows[1]."""
    first, end = rows
    members = _reciprocal(neighbours.nearest, first, end, full)  # (n, F)
    halves = half_sets[members.clamp(min=0)].masked_fill((members < 0)[:, :, None], -1)  # (n, F, H)
    shared = (halves[:, :, :, None] == members[:, None, None, :]).any(dim=3) & (halves >= 0)
    joins = 3 * shared.sum(dim=2) > 2 * (halves >= 0).sum(dim=2)  # eq. 3
    added = halves.masked_fill(~joins[:, :, None], -1)
    everyone = torch.cat([members, added.flatten(start_dim=1)], dim=1).sort(dim=1).values
    once = everyone >= 0
    once[:, 1:] &= everyone[:, 1:] != everyone[:, :-1]
    place, _ = once.nonzero(as_tuple=True)
    column = everyone[once]
    farthest = neighbours.farthest[first:end].double()
    gap = squared_distances(vectors, place + first, column)
    weights = torch.zeros(once.shape, dtype=torch.float64, device=vectors.device)
    weights[once] = torch.where(farthest[place] > 0, gap / farthest[place], 0.0).neg().exp()
    weights /= weights.sum(dim=1, keepdim=True)
    return once.sum(dim=1), column.int(), weights[once].float()


def _expand_rows(encoding: SparseRows, nearest: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(sizes, columns, values) of some rows, given the neighbours of each (n, k2)."""
    rows, count = nearest.shape
    total = len(encoding.start) - 1
    entry, owner = encoding.entries_of(nearest.flatten())
    key, order = (owner // count * total + encoding.column[entry]).sort(stable=True)
    cell, group, sizes = torch.unique_consecutive(key, return_inverse=True, return_counts=True)
    place = torch.arange(len(key), device=key.device) - (sizes.cumsum(0) - sizes)[group]
    values = torch.zeros(len(cell), count, device=key.device)  # a column comes from at most `count` rows
    values[group, place] = encoding.value[entry[order]]
    return torch.bincount(cell // total, minlength=rows), (cell % total).int(), values.sum(dim=1) / count


def _stack(parts: list[tuple[Tensor, Tensor, Tensor]]) -> SparseRows:
    """Joins the parts (sizes, columns, values) of consecutive rows."""
    sizes, columns, values = (torch.cat(list(part)) for part in zip(*parts))
    return SparseRows(_starts(sizes), columns, values)


def _starts(sizes: Tensor) -> Tensor:
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)])


def _blocks_of(entries: Tensor) -> Iterator[tuple[int, int]]:
    """(first, end) of consecutive items whose entries together fit into a block; at least one item each."""
    ends = entries.cumsum(0).cpu()
    first, done = 0, 0
    while first < len(ends):
        end = int(torch.searchsorted(ends, done + exactness.BLOCK_BYTES // ENTRY_BYTES, right=True))
        end = max(end, first + 1)
        yield first, end
        first, done = end, int(ends[end - 1])
