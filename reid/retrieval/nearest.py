"""The top of every query's ranking. Q queries, G gallery images, R places of the ranking kept (from 1).

Images that the metric ignores are left out here too (protocol.py), and equally distant images rank by their index, so
that the place that is shown is the place that the metric counted.
"""

from typing import NamedTuple

import numpy as np

from reid.retrieval.parallel import compiled, run_all, shares, worker_pool
from reid.retrieval.protocol import Floats, Integers, Protocol

ROWS = 64
"""Largest number of queries that a thread works on at a time."""


class Nearest(NamedTuple):
    """The nearest gallery images of each query, and its first match at whatever place of the ranking."""

    image: Integers
    """(Q, R): gallery indices, nearest first; -1 beyond the last."""
    distance: Floats
    """(Q, R); inf beyond the last."""
    first_match: Integers
    """(Q,): gallery index of the nearest match, -1 for a query without one."""
    first_match_distance: Floats
    """(Q,); inf for a query without a match."""


class NearestFinder:
    """`Nearest` of distances that come in blocks of queries, in any order."""

    def __init__(self, protocol: Protocol, *, ranks: int) -> None:
        queries = len(protocol.query_person)
        self._protocol = protocol
        self.found = Nearest(
            np.full((queries, ranks), -1, np.int64),
            np.full((queries, ranks), np.inf, np.float32),
            np.full(queries, -1, np.int64),
            np.full(queries, np.inf, np.float32),
        )

    def add(self, first_query: int, distance: Floats) -> None:
        """Finds the nearest images of the queries from `first_query` on, by finite distance (rows, G)."""
        distance, protocol = self._protocol.block(distance, first_query)
        part = slice(first_query, first_query + len(distance))
        found = Nearest(*(values[part] for values in self.found))  # type: ignore[arg-type]
        with worker_pool() as pool:
            run_all(pool, lambda rows: _find(*rows, distance, protocol, found), shares(len(distance), most=ROWS))


@compiled()
def _find(first: int, end: int, distance: Floats, protocol: Protocol, found: Nearest) -> None:
    last = found.image.shape[1] - 1
    for query in range(first, end):
        person, camera = protocol.query_person[query], protocol.query_camera[query]
        image, nearest = found.image[query], found.distance[query]
        for index in range(distance.shape[1]):
            value, other = distance[query, index], protocol.gallery_person[index]
            if not value < nearest[last] or other < 0:
                continue
            if other == person and protocol.gallery_camera[index] == camera:
                continue
            place = last
            while place > 0 and nearest[place - 1] > value:
                nearest[place], image[place] = nearest[place - 1], image[place - 1]
                place -= 1
            nearest[place], image[place] = value, index
        for at in range(protocol.begin[query], protocol.end[query]):
            index = protocol.by_person[at]
            value = distance[query, index]
            if protocol.gallery_camera[index] != camera and value < found.first_match_distance[query]:
                found.first_match[query], found.first_match_distance[query] = index, value
