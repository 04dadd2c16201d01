"""k-reciprocal encodings of vectors, before and after local query expansion, as sparse rows.

The formula has an (N, N) matrix of encodings, but a row of it is zero outside the k-reciprocal set of its vector, which
has a few dozen members. So a row is kept as its entries only. jaccard.py computes distances between such rows.

N vectors (the queries, then the gallery), D values each, K neighbours. Equation numbers are those of Zhong et al., CVPR
2017, arXiv:1701.08398.
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
"""Number of rows that a thread works on at a time."""


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
    """What the encoding of a row reads: the neighbours and the k-reciprocal half sets of all vectors."""

    nearest: Ints
    distance: Floats
    farthest: Floats
    full: int
    """Number of neighbours among which the full set is sought, the vector itself included: k1 + 1."""
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
    return _stack("k-reciprocal sets", total, in_order(pool, lambda rows: _encode_rows(*rows, vectors, hood), ranges))


def expand(pool: ThreadPoolExecutor, encoding: SparseRows, nearest: Ints, *, k2: int) -> SparseRows:
    """Local query expansion, eq. 11: row i becomes the mean of the rows of its k2 nearest, itself among them.

    As in the authors' code k2 = 1 changes nothing, even if an equal vector of lower index comes before i itself.
    """
    if k2 == 1:
        return encoding
    count = min(k2, nearest.shape[1])
    total, ranges = len(nearest), row_ranges(len(nearest), size=ROWS)
    expanded = in_order(pool, lambda rows: _expand_rows(*rows, nearest[:, :count], encoding), ranges)
    return _stack("query expansion", total, expanded)


def _stack(what: str, total: int, found: Iterator[tuple[Ints, Ints, Floats]]) -> SparseRows:
    """Joins the parts (sizes, columns, values) of consecutive rows, `total` rows in all; `what` names the progress."""
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
    """Writes R(row, count) of eq. 2 to members, the `count` nearest of row that have row among theirs; their number."""
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
    """Writes R*(row, k1) of eq. 4 to members and returns their number.

    mark (N,) becomes 2 row for members of R(row, k1) and 2 row + 1 for those that eq. 3 and 4 add: as marks rise with
    the row, it needs no clearing between rows.
    """
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
    """The same function as in candidates.py, because numba's cache does not notice changes in another file."""
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
