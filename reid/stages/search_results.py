"""Writes what a search found as JSON, CSV or Parquet."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reid.embedding_files.parquet import pyarrow
from reid.embedding_files.rows import require_utf8
from reid.errors import ArtifactError
from reid.files.writing import replacing, require_writable, write_text
from reid.stages.search import Searched

COLUMNS = ("query", "rank", "img_path", "similarity", "same_person")


def require_results_file(path: Path) -> None:
    """Raises ReidError now, and not after the search, if `write_results` could not write the file."""
    _writer(path)
    if path.suffix.lower() == ".parquet":
        pyarrow()
    require_writable(path)


def write_results(path: Path, searched: Searched) -> None:
    """Writes a row for each hit; JSON groups them by query and says the threshold too."""
    _writer(path)(path, searched)


def _writer(path: Path) -> Callable[[Path, Searched], None]:
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ArtifactError(f"{path}: not an ending of results\n  want: one of {', '.join(WRITERS)}")
    return writer


def _rows(searched: Searched) -> Iterator[tuple[Any, ...]]:
    for query, hits in zip(searched.queries, searched.hits, strict=True):
        for hit in hits:
            yield query, hit.rank, hit.path, hit.similarity, hit.same_person


def _write_json(path: Path, searched: Searched) -> None:
    threshold = asdict(searched.threshold) if searched.threshold else None
    if threshold and searched.measured:
        threshold["measured_on"] = searched.measured.measured_on
    queries = [
        {
            "img_path": query,
            "hits": [
                {"rank": hit.rank, "img_path": hit.path, "similarity": hit.similarity, "same_person": hit.same_person}
                for hit in hits
            ],
        }
        for query, hits in zip(searched.queries, searched.hits, strict=True)
    ]
    content = {"gallery_rows": searched.gallery_rows, "threshold": threshold, "queries": queries}
    write_text(path, json.dumps(content, indent=1) + "\n")


def _write_csv(path: Path, searched: Searched) -> None:
    # a name that is not UTF-8 is written as the bytes that it has on the disk
    with replacing(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(COLUMNS)
        writer.writerows(
            (query, rank, image, f"{similarity:.6f}", "" if same is None else str(same).lower())
            for query, rank, image, similarity, same in _rows(searched)
        )


def _write_parquet(path: Path, searched: Searched) -> None:
    arrow = pyarrow()
    require_utf8([*searched.queries, *(hit.path for hits in searched.hits for hit in hits)], target=path)
    kinds = (arrow.string(), arrow.int64(), arrow.string(), arrow.float64(), arrow.bool_())
    columns = list(zip(*_rows(searched), strict=True)) or [()] * len(COLUMNS)
    arrays = [arrow.array(column, kind) for column, kind in zip(columns, kinds, strict=True)]
    with replacing(path) as partial:
        arrow.parquet.write_table(arrow.table(arrays, names=list(COLUMNS)), partial)


WRITERS: dict[str, Callable[[Path, Searched], None]] = {
    ".json": _write_json,
    ".csv": _write_csv,
    ".parquet": _write_parquet,
}
"""File ending -> what writes a file of it."""
