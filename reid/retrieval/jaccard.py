"""k-reciprocal encoding and the Jaccard distance between encodings, as sparse rows.

N vectors (the queries, then the gallery), D values each, K neighbours, G gallery images. Equation numbers are those of
Zhong et al., CVPR 2017, arXiv:1701.08398.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.retrieval.candidates import Floats, Ints, Neighbours
from reid.retrieval.parallel import SUM_IN_ANY_ORDER, compiled, in_order, row_ranges, run_all

ROWS = 512
"""Rows a thread takes at a time."""


class SparseRows(NamedTuple):
    """A sparse matrix: row r holds value[start[r]:start[r + 1]] in the columns column[start[r]:start[r + 1]]."""

    start: NDArray[np.int64]
    column: Ints
    value: Floats

    def head(self, rows: int) -> "SparseRows":
        """A copy of the first rows."""
        end = self.start[rows]
        return SparseRows(self.start[: rows + 1].copy(), self.column[:end].copy(), self.value[:end].copy())


class _Neighbourhood(NamedTuple):
    """What the encoding of a row reads: the neighbours of all, and the k-reciprocal half sets of all."""

    nearest: Ints
    distance: Floats
    farthest: Floats
    full: int
    """Neighbours that a full set is sought among, the vector itself included: k1 + 1."""
    half_sets: Ints
    """(N, round(k1 / 2) + 1): row c begins with the half_sizes[c] members of R(c, k1 / 2)."""
    half_sizes: Ints


def encode(pool: ThreadPoolExecutor, vectors: Floats, neighbours: Neighbours, *, k1: int) -> SparseRows:
    """Row i: exp(-distance(i, j) / farthest(i)) for the members j of i's expanded set, over their sum. (N, N) sparse.

    The sets of eq. 2 to 4 with the weights of eq. 7. As in the authors' code a vector is its own first neighbour, hence
    k1 + 1 of them, and round(k1 / 2) + 1 for the half sets, a half rounded to even.
    """
    total, width = neighbours.nearest.shape
    half = min(round(k1 / 2) + 1, width)
    hood = _Neighbourhood(
        neighbours.nearest,
        neighbours.distance,
        neighbours.farthest,
        min(k1 + 1, width),
        np.empty((total, half), np.int32),
        np.empty(total, np.int32),
    )
    ranges = row_ranges(total, size=ROWS)
    run_all(pool, lambda rows: _find_half_sets(*rows, hood), ranges)
    return _stacked("k-reciprocal sets", total, in_order(pool, lambda rows: _encode_rows(*rows, vectors, hood), ranges))


def expand(pool: ThreadPoolExecutor, encoding: SparseRows, nearest: Ints, *, k2: int) -> SparseRows:
    """Local query expansion, eq. 11: row i becomes the mean of the rows of its k2 nearest, itself among them.

    As in the authors' code k2 = 1 changes nothing, even where an equal vector of lower index is nearer than i itself.
    """
    if k2 == 1:
        return encoding
    count = min(k2, nearest.shape[1])
    total, ranges = len(nearest), row_ranges(len(nearest), size=ROWS)
    expanded = in_order(pool, lambda rows: _expand_rows(*rows, nearest[:, :count], encoding), ranges)
    return _stacked("query expansion", total, expanded)


def _stacked(what: str, total: int, found: Iterator[tuple[Ints, Ints, Floats]]) -> SparseRows:
    """(sizes, columns, values) of consecutive rows, `total` in all -> all of them, once the work called so is done."""
    parts = []
    with Progress(what, total, "vectors") as progress:
        for part in found:
            parts.append(part)
            progress.update(min(len(parts) * ROWS, total))
    sizes = np.concatenate([sizes for sizes, _, _ in parts])
    start = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=start[1:])
    return SparseRows(start, np.concatenate([c for _, c, _ in parts]), np.concatenate([v for _, _, v in parts]))


@compiled()
def _find_reciprocal(nearest: Ints, row: int, count: int, members: Ints) -> int:
    """R(row, count) of eq. 2 into members: those of row's `count` nearest that have row among theirs -> how many."""
    found = 0
    for at in range(count):
        other = nearest[row, at]
        for place in range(count):
            if nearest[other, place] == row:
                members[found] = other
                found += 1
                break
    return found


@compiled()
def _find_half_sets(first: int, end: int, hood: _Neighbourhood) -> None:
    for row in range(first, end):
        members = hood.half_sets[row]
        hood.half_sizes[row] = _find_reciprocal(hood.nearest, row, len(members), members)


@compiled()
def _find_expanded(row: int, hood: _Neighbourhood, mark: Ints, members: Ints) -> int:
    """R*(row, k1) of eq. 4 into members -> how many; mark (N,) gets 2 row for R(row, k1), 2 row + 1 for those added."""
    found = _find_reciprocal(hood.nearest, row, hood.full, members)
    for at in range(found):
        mark[members[at]] = 2 * row
    for at in range(found):
        candidate = members[at]
        size, shared = hood.half_sizes[candidate], 0
        for place in range(size):
            shared += mark[hood.half_sets[candidate, place]] == 2 * row
        if 3 * shared > 2 * size:
            for place in range(size):
                other = hood.half_sets[candidate, place]
                if mark[other] < 2 * row:
                    mark[other] = 2 * row + 1
                    members[found] = other
                    found += 1
    return found


@compiled(SUM_IN_ANY_ORDER)
def _squared_distance(one: Floats, other: Floats) -> float:
    """As in candidates.py: compiled code on disk is not renewed when what it calls changes in another file."""
    total = 0.0
    for at in range(len(one)):
        gap = np.float64(one[at]) - np.float64(other[at])
        total += gap * gap
    return total


@compiled()
def _encode_rows(first: int, end: int, vectors: Floats, hood: _Neighbourhood) -> tuple[Ints, Ints, Floats]:
    total = len(vectors)
    most = min(hood.full * (hood.half_sets.shape[1] + 1), total)
    sizes = np.empty(end - first, np.int32)
    columns, values = np.empty((end - first) * most, np.int32), np.empty((end - first) * most, np.float32)
    mark, known = np.full(total, -1, np.int32), np.full(total, -1, np.float32)
    used = 0
    for row in range(first, end):
        members, weights = columns[used : used + most], values[used : used + most]
        size = _find_expanded(row, hood, mark, members)
        for at in range(hood.full):
            known[hood.nearest[row, at]] = hood.distance[row, at]
        scale = -1.0 / hood.farthest[row] if hood.farthest[row] > 0 else 0.0
        weight_sum = 0.0
        for at in range(size):
            gap = float(known[members[at]])
            if gap < 0:
                gap = _squared_distance(vectors[row], vectors[members[at]])
            weights[at] = np.exp(gap * scale)
            weight_sum += weights[at]
        for at in range(size):
            weights[at] /= weight_sum
        for at in range(hood.full):
            known[hood.nearest[row, at]] = -1
        sizes[row - first] = size
        used += size
    return sizes, columns[:used].copy(), values[:used].copy()


@compiled()
def _expand_rows(first: int, end: int, nearest: Ints, encoding: SparseRows) -> tuple[Ints, Ints, Floats]:
    count, most = nearest.shape[1], 0
    for row in range(first, end):
        for at in range(count):
            most += encoding.start[nearest[row, at] + 1] - encoding.start[nearest[row, at]]
    sizes = np.empty(end - first, np.int32)
    columns, values = np.empty(most, np.int32), np.empty(most, np.float32)
    place = np.full(len(nearest), -1, np.int64)
    used = 0
    for row in range(first, end):
        begin = used
        for at in range(count):
            neighbour = nearest[row, at]
            for entry in range(encoding.start[neighbour], encoding.start[neighbour + 1]):
                column = encoding.column[entry]
                if place[column] < begin:
                    place[column] = used
                    columns[used], values[used] = column, encoding.value[entry]
                    used += 1
                else:
                    values[place[column]] += encoding.value[entry]
        for entry in range(begin, used):
            values[entry] /= np.float32(count)
        sizes[row - first] = used - begin
    return sizes, columns[:used].copy(), values[:used].copy()


@compiled()
def invert(encoding: SparseRows, first_row: int) -> SparseRows:
    """Column by column the rows from `first_row` on that have it: (N, rows) sparse, rows counted from first_row."""
    rows = len(encoding.start) - 1
    begin = encoding.start[first_row]
    entries = encoding.start[rows] - begin
    # counted one place beyond the column's next, so that filling a column leaves its start behind
    place = np.zeros(rows + 2, np.int64)
    for entry in range(begin, begin + entries):
        place[encoding.column[entry] + 2] += 1
    for at in range(2, rows + 2):
        place[at] += place[at - 1]
    row_of, value_of = np.empty(entries, np.int32), np.empty(entries, np.float32)
    for row in range(first_row, rows):
        for entry in range(encoding.start[row], encoding.start[row + 1]):
            at = place[encoding.column[entry] + 1]
            row_of[at], value_of[at] = row - first_row, encoding.value[entry]
            place[encoding.column[entry] + 1] = at + 1
    return SparseRows(place[: rows + 1].copy(), row_of, value_of)


class Encoded(NamedTuple):
    """All that the distances need."""

    query: SparseRows
    """(Q, N)."""
    gallery_by_column: SparseRows
    """(N, G)."""
    farthest: Floats
    """(Q,) or more: scale of the original distance."""


@compiled()
def blend(encoded: Encoded, first_query: int, lambda_value: float, distance: Floats, plain: Floats) -> None:
    """distance (rows, G) of the queries from `first_query` on: from cosines to final distances, in place.

    Eq. 12 over eq. 10: as encodings sum to 1, the Jaccard distance is 1 - m / (2 - m), m the sum of the lesser weights.
    `plain` (rows, G) gets the squared Euclidean distances, 2 - 2 cos.
    """
    query, gallery = encoded.query, encoded.gallery_by_column
    shared = np.zeros(distance.shape[1], np.float32)
    one, two, jaccard_part = np.float32(1), np.float32(2), np.float32(1 - lambda_value)
    for row in range(len(distance)):
        for entry in range(query.start[first_query + row], query.start[first_query + row + 1]):
            column, weight = query.column[entry], query.value[entry]
            for at in range(gallery.start[column], gallery.start[column + 1]):
                shared[gallery.column[at]] += min(weight, gallery.value[at])
        farthest = encoded.farthest[first_query + row]
        original_part = np.float32(lambda_value / farthest if farthest > 0 else 0.0)
        cells, squared = distance[row], plain[row]
        for at in range(len(cells)):
            overlap = shared[at]
            # rounding puts equal vectors a little below zero
            squared[at] = two * max(one - cells[at], np.float32(0))
            cells[at] = original_part * squared[at] + jaccard_part * (one - overlap / (two - overlap))
            shared[at] = 0
