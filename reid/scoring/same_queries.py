"""Two tables of queries brought into one order, if both are of the same queries."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.errors import DatasetError
from reid.scoring.per_query import PerQuery, RankedQueries


@dataclass(frozen=True)
class SameQueries:
    """Two tables of the same queries, in A's order."""

    first: PerQuery
    second: PerQuery


def same_queries(first: PerQuery, second: PerQuery) -> SameQueries:
    """Both tables in A's order. A query is known by its name below the folder of all queries, its person and camera.

    The folder may differ, for the data may lie elsewhere on another machine; so may the persons' numbers, which depend
    on what else a data set holds. Raises DatasetError, which counts them, if some queries are of one side only: a
    comparison of the others would be of another test set than either was measured on.
    """
    names, others = first.names(), second.names()
    place = {name: row for row, name in enumerate(others)}
    missing, added = [name for name in names if name not in place], set(others) - set(names)
    if missing or added:
        example = f"\n  only in A: {missing[0]}" if missing else ""
        example += f"\n  only in B: {min(added)}" if added else ""
        raise DatasetError(
            f"A and B were not measured on the same queries: {len(missing)} of A's {len(names)} are not in B, "
            f"{len(added)} of B's {len(others)} are not in A{example}\n"
            "  want: two evaluations of the same query images"
        )
    second = _in_order(second, np.array([place[name] for name in names]))
    differ = (first.camera != second.camera) | (_in_order_of_appearance(first) != _in_order_of_appearance(second))
    if differ.any():
        row = int(np.flatnonzero(differ)[0])
        who = [f"person {side.person[row]}, camera {side.camera[row]}" for side in (first, second)]
        raise DatasetError(
            f"A and B have other persons or cameras on {int(differ.sum())} of {len(names)} queries\n"
            f"  first: {names[row]}: {who[0]} in A, {who[1]} in B\n"
            "  want: two evaluations of the same query images, read with the same dataset.file_name"
        )
    return SameQueries(first, second)


def _in_order(table: PerQuery, rows: NDArray[np.int64]) -> PerQuery:
    def ranked(one: RankedQueries) -> RankedQueries:
        return RankedQueries(
            one.average_precision[rows],
            one.first_match_rank[rows],
            [one.top1[row] for row in rows],
            one.top1_person[rows],
        )

    return PerQuery(
        [table.paths[row] for row in rows],
        table.person[rows],
        table.camera[rows],
        {kind: ranked(one) for kind, one in table.rankings.items()},
    )


def _in_order_of_appearance(table: PerQuery) -> NDArray[np.int64]:
    """(Q,): the persons numbered from 0 in the order in which they come."""
    _, first, place = np.unique(table.person, return_index=True, return_inverse=True)
    number = np.empty(len(first), np.int64)
    number[np.argsort(first)] = np.arange(len(first))
    return number[place]
