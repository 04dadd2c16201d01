"""The Jaccard distance between k-reciprocal encodings, blended with the original distance.

The idea: the Jaccard distance of two rows needs the sum of the smaller of both weights over the columns that both rows
have. An inverted index gives it without looking at pairs that share nothing: for each column it lists the gallery rows
that have an entry there. A query walks through its own columns and adds, for every gallery row in a column's list, the
smaller weight to that row's sum.

N vectors (Q queries, then G gallery images). Equation numbers are those of Zhong et al., CVPR 2017, arXiv:1701.08398.
"""

from typing import NamedTuple

import numpy as np

from reid.retrieval.candidates import Floats
from reid.retrieval.encoding import SparseRows
from reid.retrieval.parallel import compiled


@compiled()
def invert(encoding: SparseRows, first_row: int) -> SparseRows:
    """The inverted index of the rows from `first_row` on: for each column, which rows have it and with what weight.

    As sparse rows it is (N, rows); rows are counted from first_row.
    """
    rows = len(encoding.start) - 1
    begin = encoding.start[first_row]
    entries = encoding.start[rows] - begin
    # a column's entries are counted two places further on; after the sums and the filling, place[c] is its start
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
    """The encodings and scales from which the final distances are computed."""

    query: SparseRows
    """(Q, N)."""
    gallery_by_column: SparseRows
    """(N, G)."""
    farthest: Floats
    """(Q,) or more: scale of the original distance."""


@compiled()
def blend(encoded: Encoded, first_query: int, lambda_value: float, distance: Floats, plain: Floats) -> None:
    """Turns distance (rows, G), cosines of the queries from `first_query` on, into final distances, in place.

    Eq. 12 over eq. 10: as encodings sum to 1, the Jaccard distance is 1 - m / (2 - m), where m is the sum over the
    columns of the smaller of both weights.
    `plain` (rows, G) gets the squared Euclidean distances, 2 - 2 cos.
    """
    query, gallery = encoded.query, encoded.gallery_by_column
    shared = np.zeros(distance.shape[1], np.float64)  # in float32 the sums of equal vectors drift by a rounding a term
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
