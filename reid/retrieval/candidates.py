"""Kernels of the nearest-neighbour search: the best candidates so far of every vector, in the end in exact order.

The idea: every vector has a short sorted list of its C most similar vectors so far, and a bar, the lowest similarity in
that list. After the first tiles nearly all similarities are below the bar. So a chunk of them is first compared with
the bars without a branch, which vectorises, and only a chunk that holds something new is read one by one. Float32 gets
the candidates nearly in order; at the end those that are closer than its rounding are compared again in float64.

N vectors of length 1, D values each, C candidates kept a vector, K neighbours wanted. Similarity is the cosine.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.retrieval.parallel import SUM_IN_ANY_ORDER, compiled

Floats = NDArray[np.float32]
Ints = NDArray[np.int32]

CHUNK = 64
"""Number of similarities that are compared together; few chunks hold a new candidate."""


class Candidates(NamedTuple):
    """The best candidates so far of a range of n vectors."""

    similarity: Floats
    """(n, C), falling along a row."""
    vector: Ints
    """(n, C): index of the vector that each similarity belongs to."""
    bar: Floats
    """(n,): only a vector that is more similar than this is among the C best."""
    lowest: Floats
    """(n,): similarity to the farthest vector."""

    @classmethod
    def none(cls, total: int, kept: int) -> "Candidates":
        """Empty lists of `kept` candidates for each of `total` vectors."""
        return cls(
            np.full((total, kept), -np.inf, np.float32),
            np.full((total, kept), -1, np.int32),
            np.full(total, -np.inf, np.float32),
            np.full(total, np.inf, np.float32),
        )

    def rows(self, first: int, end: int) -> "Candidates":
        """The candidates of a range of the vectors: views, not copies."""
        return Candidates(*(array[first:end] for array in self))  # type: ignore[arg-type]


class Neighbours(NamedTuple):
    """The K nearest of each of N vectors, the vector itself included."""

    nearest: Ints
    """(N, K): the nearest first, equally near ones by index."""
    distance: Floats
    """(N, K), squared Euclidean."""
    farthest: Floats
    """(N,): squared distance to the farthest of all vectors."""
    crowded: NDArray[np.bool_]
    """(N,): whether float32 could not resolve the near-ties, so that the vector was compared with all others again."""

    @classmethod
    def empty(cls, total: int, count: int) -> "Neighbours":
        """Room for the `count` neighbours of `total` vectors."""
        return cls(
            np.empty((total, count), np.int32),
            np.empty((total, count), np.float32),
            np.empty(total, np.float32),
            np.zeros(total, np.bool_),
        )

    def rows(self, first: int, end: int) -> "Neighbours":
        """The neighbours of a range of the vectors: views, not copies."""
        return Neighbours(*(array[first:end] for array in self))  # type: ignore[arg-type]


@compiled()
def _insert(best: Candidates, row: int, similarity: np.float32, index: int) -> None:
    place = best.similarity.shape[1] - 1
    while place > 0 and best.similarity[row, place - 1] < similarity:
        best.similarity[row, place] = best.similarity[row, place - 1]
        best.vector[row, place] = best.vector[row, place - 1]
        place -= 1
    best.similarity[row, place] = similarity
    best.vector[row, place] = index
    best.bar[row] = max(best.bar[row], best.similarity[row, -1])


@compiled()
def _any_news(similarity: Floats, low: np.float32, bar: np.float32, column_low: Floats, column_bar: Floats) -> bool:
    """Whether a chunk holds a candidate or a new lowest for its row or a column; without branches it vectorises."""
    news = np.int32(0)
    for at in range(len(similarity)):
        value = similarity[at]
        news |= np.int32(value > min(column_bar[at], bar)) | np.int32(value < max(column_low[at], low))
    return bool(news)


@compiled()
def scan(similarity: Floats, rows: Candidates, columns: Candidates, first_row: int, first_column: int) -> None:
    """Adds similarity (n, m) between the vectors of `rows` and those of `columns` to the candidates of both."""
    for row in range(similarity.shape[0]):
        for begin in range(0, similarity.shape[1], CHUNK):
            chunk = similarity[row, begin : begin + CHUNK]
            column_bar, column_low = columns.bar[begin : begin + CHUNK], columns.lowest[begin : begin + CHUNK]
            if not _any_news(chunk, rows.lowest[row], rows.bar[row], column_low, column_bar):
                continue
            for at in range(len(chunk)):
                value = chunk[at]
                rows.lowest[row] = min(rows.lowest[row], value)
                column_low[at] = min(column_low[at], value)
                if value > rows.bar[row]:
                    _insert(rows, row, value, first_column + begin + at)
                if value > column_bar[at]:
                    _insert(columns, begin + at, value, first_row + row)


@compiled()
def scan_diagonal(similarity: Floats, rows: Candidates, first_row: int) -> None:
    """Adds similarity (n, n) of vectors among themselves to the rows only, as every pair comes twice."""
    kept, width = rows.similarity.shape[1], 16
    highs, best = np.empty(similarity.shape[1] // width, np.float32), np.empty(kept, np.float32)
    for row in range(similarity.shape[0]):
        if len(highs) >= kept:
            # at least `kept` values reach the kept-th highest of the groups' highs: a bar before the first insertion
            for group in range(len(highs)):
                highs[group] = similarity[row, width * group]
                for column in range(width * group + 1, width * (group + 1)):
                    highs[group] = max(highs[group], similarity[row, column])
            rows.bar[row] = max(rows.bar[row], _high(highs, best) - np.float32(1e-6))
        for column in range(similarity.shape[1]):
            value = similarity[row, column]
            rows.lowest[row] = min(rows.lowest[row], value)
            if value > rows.bar[row]:
                _insert(rows, row, value, first_row + column)


@compiled()
def _high(values: Floats, best: Floats) -> np.float32:
    """The lowest of the len(best) highest values, which are written to best."""
    for at in range(len(best)):
        best[at] = -np.inf
    for value in values:
        if value > best[-1]:
            at = len(best) - 1
            while at > 0 and best[at - 1] < value:
                best[at] = best[at - 1]
                at -= 1
            best[at] = value
    return best[-1]  # type: ignore[no-any-return]


@compiled(SUM_IN_ANY_ORDER)
def squared_distance(one: Floats, other: Floats) -> float:
    """Squared Euclidean distance of two vectors, in float64; equal for equal vectors, zero from a vector to itself."""
    total = 0.0
    for at in range(len(one)):
        gap = np.float64(one[at]) - np.float64(other[at])
        total += gap * gap
    return total


@compiled()
def order_exactly(vectors: Floats, best: Candidates, first_row: int, margin: float, found: Neighbours) -> None:
    """Candidates (n, C) of the vectors from `first_row` on -> found (n, K), by rising distance, equal ones by index.

    Two candidates whose similarities differ by no more than `margin` are in an unknown order: their distances are
    computed again in float64. A row is crowded if that may also be true of vectors that are no longer candidates.
    """
    kept, count = best.similarity.shape[1], found.nearest.shape[1]
    exact, who = np.empty(kept, np.float64), np.empty(kept, np.int32)
    for row in range(len(found.nearest)):
        similarity = best.similarity[row]
        begin = 0
        while begin < count:
            end = begin + 1
            while end < kept and similarity[end - 1] - similarity[end] <= margin:
                end += 1
            for at in range(begin, end):
                other = best.vector[row, at]
                if end > begin + 1 or other == first_row + row:
                    gap = squared_distance(vectors[first_row + row], vectors[other])
                else:
                    gap = max(2.0 - 2.0 * similarity[at], 0.0)
                place = at
                while place > begin and (
                    exact[place - 1] > gap or (exact[place - 1] == gap and who[place - 1] > other)
                ):
                    exact[place], who[place] = exact[place - 1], who[place - 1]
                    place -= 1
                exact[place], who[place] = gap, other
            begin = end
        for at in range(count):
            found.nearest[row, at], found.distance[row, at] = who[at], exact[at]
        found.farthest[row] = max(2.0 - 2.0 * best.lowest[row], 0.0)
        found.crowded[row] = kept < len(vectors) and similarity[count - 1] - similarity[kept - 1] <= margin


@compiled()
def search_rows(vectors: Floats, rows: NDArray[np.int64], similarity: Floats, margin: float, found: Neighbours) -> None:
    """Writes the neighbours of some rows among all vectors to those rows of found (N, K).

    similarity (n, N) float32 belongs to these rows: only vectors within `margin` of the K-th are compared in float64.
    """
    count = found.nearest.shape[1]
    exact, who, highest = np.empty(count, np.float64), np.empty(count, np.int32), np.empty(count, np.float32)
    for at_row in range(len(rows)):
        row, bar = rows[at_row], _high(similarity[at_row], highest) - margin
        for at in range(count):
            exact[at] = np.inf
        for other in range(len(vectors)):
            if similarity[at_row, other] < bar:
                continue
            gap = squared_distance(vectors[row], vectors[other])
            if gap < exact[-1]:
                place = count - 1
                while place > 0 and exact[place - 1] > gap:
                    exact[place], who[place] = exact[place - 1], who[place - 1]
                    place -= 1
                exact[place], who[place] = gap, other
        for at in range(count):
            found.nearest[row, at], found.distance[row, at] = who[at], exact[at]
