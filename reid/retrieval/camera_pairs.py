"""Scores of each query in each camera's part of the gallery. Q queries, G gallery images, C cameras of the gallery.

For a query of camera a and a camera b other than a, the gallery is limited to camera b's images, junk left out and
distractors kept: its matches are the person's images in camera b, and their places are counted among that camera's
images alone. The places come from the distances that the whole gallery is scored by, and in a part of the gallery there
is less to count: all cameras together cost less than the whole gallery does.
"""

import numpy as np
from numpy.typing import NDArray

from reid.retrieval.metrics import places_of
from reid.retrieval.parallel import compiled, run_all, shares, worker_pool
from reid.retrieval.protocol import Floats, Integers, Protocol

ROWS = 64
"""Largest number of queries that a thread works on at a time."""


class CameraScorer:
    """Scores each query in each camera's part of the gallery, from distances that come in blocks of queries."""

    def __init__(self, protocol: Protocol) -> None:
        self._protocol = protocol
        self._order = np.argsort(protocol.gallery_camera, kind="stable")  # (G,) camera after camera, then by index
        cameras, first = np.unique(protocol.gallery_camera[self._order], return_index=True)
        self.cameras: Integers = cameras.astype(np.int64)
        """(C,) the gallery's cameras, ascending."""
        self._first = np.append(first, len(self._order)).astype(np.int64)  # (C + 1,)
        self._place = np.empty(len(self._order), np.int64)
        self._place[self._order] = np.arange(len(self._order))
        shape = len(protocol.query_person), len(cameras)
        self.average_precision: NDArray[np.float64] = np.full(shape, np.nan)
        """(Q, C), nan if the camera has no image of the person, or is the query's own."""
        self.first_match_rank: Integers = np.zeros(shape, np.int64)
        """(Q, C): place of the first match among the camera's images (from 1), 0 if there is none."""

    def add(self, first_query: int, distance: Floats) -> None:
        """Scores the queries from `first_query` on by finite distance (rows, G)."""
        distance, protocol = self._protocol.block(distance, first_query)
        part = slice(first_query, first_query + len(distance))
        parts = self._order, self._place, self._first
        precision, rank = self.average_precision[part], self.first_match_rank[part]

        def score(rows: tuple[int, int]) -> None:
            _score_rows(rows, distance, protocol, parts, (precision, rank))

        with worker_pool() as pool:
            run_all(pool, score, shares(len(distance), most=ROWS))


@compiled()
def _score_rows(
    rows: tuple[int, int],
    distance: Floats,
    protocol: Protocol,
    parts: tuple[Integers, Integers, Integers],
    found_here: tuple[NDArray[np.float64], Integers],
) -> None:
    """parts: the order camera after camera, each image's place in it, and each camera's first place."""
    order, place, first_of = parts
    average_precision, first_match_rank = found_here
    gallery, cameras = distance.shape[1], len(first_of) - 1
    row, matches, ranks = np.empty(gallery, np.float32), np.empty(gallery, np.int64), np.empty(gallery, np.int64)
    for query in range(rows[0], rows[1]):
        count = 0
        for at in range(protocol.begin[query], protocol.end[query]):
            index = protocol.by_person[at]
            if protocol.gallery_camera[index] != protocol.query_camera[query]:
                matches[count] = place[index]
                count += 1
        if count == 0:
            continue
        for at in range(gallery):
            row[at] = distance[query, order[at]]
        for at in range(len(protocol.junk)):
            row[place[protocol.junk[at]]] = np.inf
        matches[:count].sort()
        begin = 0
        for camera in range(cameras):
            low, high = first_of[camera], first_of[camera + 1]
            found = begin
            while found < count and matches[found] < high:
                matches[found] -= low
                found += 1
            if found == begin:
                continue
            here = ranks[: found - begin]
            places_of(row[low:high], matches[begin:found], here)
            precision_sum = 0.0
            for at in range(found - begin):
                precision_sum += (at + 1) / here[at]
            average_precision[query, camera] = precision_sum / (found - begin)
            first_match_rank[query, camera] = here[0]
            begin = found
