"""The table of queries: how each was ranked, as CSV; and reading it again. Needs neither torch nor the ranking."""

import csv
import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reid.errors import ArtifactError

if TYPE_CHECKING:
    from reid.scoring.ranking import Scored

KINDS = ("plain", "reranked")
"""The rankings, whose names begin the columns."""
PER_QUERY = "per_query.csv"
"""Name of the file among the results of evaluate."""
LARGEST_BYTES = 1 << 30
WHOLE_LIMIT = 2**53
NOBODY = -1
WANTED = "the per_query.csv that evaluate writes"


def per_query_csv(scored: "Scored") -> str:
    """A line for each query: average precision, place of the first right image, the nearest image; in both rankings.

    The cells of a query that no gallery image matches are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ours = ["average_precision", "first_match_rank", "top1", "top1_person", "top1_distance"]
    writer.writerow(["query", "person", "camera", *(f"{kind}_{name}" for kind in KINDS for name in ours)])
    columns = [_per_query_columns(scored, kind) for kind in KINDS]
    for row, path in enumerate(scored.query.paths):
        cells = [cell for column in columns for cell in column[row]]
        writer.writerow([path, int(scored.query.person[row]), int(scored.query.camera[row]), *cells])
    return text.getvalue()


def _per_query_columns(scored: "Scored", kind: str) -> list[list[str]]:
    """Q rows of five cells."""
    scores, nearest = scored.ranking(kind).scores, scored.ranking(kind).nearest
    rows = []
    for query, image in enumerate(nearest.image[:, 0].tolist()):
        precision, first = scores.average_precision[query], int(scores.first_match_rank[query])
        result = [f"{precision:.6f}", str(first)] if first else ["", ""]
        distance = f"{nearest.distance[query, 0]:.6f}"
        top = [scored.gallery.paths[image], str(scored.gallery.person[image]), distance]
        rows.append(result + (top if image >= 0 else ["", "", ""]))
    return rows


@dataclass(frozen=True)
class PerQuery:
    """The table of queries as it is read again. Q queries."""

    paths: list[str]
    person: NDArray[np.int64]
    """(Q,)"""
    camera: NDArray[np.int64]
    """(Q,)"""
    rankings: dict[str, "RankedQueries"]
    """"plain" and "reranked"."""

    def __len__(self) -> int:
        return len(self.paths)

    def names(self) -> list[str]:
        """The Q paths below the folder that holds all of them: the same on a machine where the data lie elsewhere."""
        folders = [PurePosixPath(path).parts for path in self.paths]
        shared = 0
        for parts in zip(*(folder[:-1] for folder in folders), strict=False):
            if len(set(parts)) > 1:
                break
            shared += 1
        return ["/".join(folder[shared:]) for folder in folders]


@dataclass(frozen=True)
class RankedQueries:
    """How one ranking served each query; nan, 0 and "" stand for a query that no gallery image matches."""

    average_precision: NDArray[np.float64]
    """(Q,)"""
    first_match_rank: NDArray[np.int64]
    """(Q,)"""
    top1: list[str]
    """Path of the nearest gallery image of each query."""
    top1_person: NDArray[np.int64]
    """(Q,): its person; -1 if there is none."""


def read_per_query(path: Path) -> PerQuery:
    """The table that `per_query_csv` wrote. Columns that it does not know are skipped.

    Raises ArtifactError, which names the line and the column, if the file is missing, cut off or no such table.
    """
    text = _text_of(path)
    try:
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except csv.Error as error:
        raise ArtifactError(f"{path}: not a table of queries ({error})\n  want: {WANTED}") from None
    if not rows or not text.endswith("\n"):
        found = "no query" if not rows else f"a last line that was cut off: {text.splitlines()[-1][:60]!r}"
        raise ArtifactError(f"{path}: found {found}\n  want: {WANTED}")
    table = _Table(path, rows)
    person, camera = table.whole("person"), table.whole("camera")
    rankings = {kind: _ranked(table, kind) for kind in KINDS}
    paths = table.texts("query")
    again, times = Counter(paths).most_common(1)[0]
    if times > 1:
        raise ArtifactError(f"{path}: query {again} stands there twice\n  want: each query once")
    return PerQuery(paths, person, camera, rankings)


def _text_of(path: Path) -> str:
    try:
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file\n  want: {WANTED}")
        if path.stat().st_size > LARGEST_BYTES:
            raise ArtifactError(
                f"{path}: found {path.stat().st_size:,} bytes\n  want: {WANTED}, at most {LARGEST_BYTES:,} bytes"
            )
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as stream:
            return stream.read()
    except OSError as error:
        raise ArtifactError(f"{path}: cannot be read: {error.strerror}\n  want: {WANTED}") from None


def _ranked(table: "_Table", kind: str) -> RankedQueries:
    precision = table.numbers(f"{kind}_average_precision")
    first = table.whole(f"{kind}_first_match_rank", empty=0)
    for row, (value, rank) in enumerate(zip(precision.tolist(), first.tolist(), strict=True)):
        if np.isnan(value) != (rank == 0) or not (np.isnan(value) or 0 <= value <= 1) or rank < 0:
            raise ArtifactError(
                f"{table.path}:{row + 2}: found {kind} average precision {value:g} with first match rank {rank}\n"
                "  want: a number from 0 to 1 and a rank from 1, or neither"
            )
    return RankedQueries(
        precision, first, table.texts(f"{kind}_top1"), table.whole(f"{kind}_top1_person", empty=NOBODY)
    )


class _Table:
    """Columns of a CSV file, checked cell by cell."""

    def __init__(self, path: Path, rows: list[dict[str, str]]) -> None:
        self.path, self._rows = path, rows

    def texts(self, column: str) -> list[str]:
        """The cells of a column."""
        cells: list[str] = []
        for line, row in enumerate(self._rows, 2):
            cell = row.get(column)
            if cell is None:
                what = f"{self.path}:{line}: has no {column}" if line > 2 else f"{self.path}: has no column {column}"
                raise ArtifactError(f"{what}\n  want: {WANTED}")
            cells.append(cell)
        return cells

    def numbers(self, column: str) -> NDArray[np.float64]:
        """(Q,): the numbers of a column, nan for empty cells."""
        return np.array([self._number(column, line, cell) for line, cell in enumerate(self.texts(column), 2)])

    def whole(self, column: str, empty: int | None = None) -> NDArray[np.int64]:
        """(Q,): the whole numbers of a column; `empty` stands for an empty cell, which is refused if it is None."""
        values = []
        for line, cell in enumerate(self.texts(column), 2):
            number = float(empty) if not cell and empty is not None else self._number(column, line, cell)
            if not (number.is_integer() and abs(number) < WHOLE_LIMIT):
                raise self._error(column, line, cell, "a whole number")
            values.append(int(number))
        return np.array(values, np.int64)

    def _number(self, column: str, line: int, cell: str) -> float:
        try:
            number = float(cell) if cell else np.nan
        except ValueError:
            number = np.inf
        if np.isinf(number) or (cell and np.isnan(number)):
            raise self._error(column, line, cell, "a number")
        return number

    def _error(self, column: str, line: int, cell: str, wanted: str) -> ArtifactError:
        return ArtifactError(f"{self.path}:{line}: {column}: found {cell[:40]!r}\n  want: {wanted}")
