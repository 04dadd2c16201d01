"""Embeddings as Parquet, which databases and data frames read: img_path, person, camera, split and embedding.

`embedding` is a list of fixed size of float or halffloat. The file's key-value metadata says which model the vectors
are of (rows.py). Blocks are row groups with checksums, which are checked at reading. pyarrow is imported here only.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.embedding_files.rows import BLOCK_ROWS, About, Block, Names, as_type, require_utf8
from reid.errors import ArtifactError, MissingDependency

WANT = "want: the columns img_path (string) and embedding (fixed_size_list of float or halffloat)"
PLAIN = ("img_path", "person", "camera", "split")
"""The columns that name a row; only the first has to be there."""


def pyarrow() -> Any:
    """The module pyarrow with its submodule parquet. Raises MissingDependency if it is not installed."""
    try:
        import pyarrow  # type: ignore[import-untyped]
        import pyarrow.parquet  # type: ignore[import-untyped]
    except ImportError as error:
        raise MissingDependency(
            f"Parquet: {error}; pyarrow comes with pip install -e '.[search]' in the repository's root"
        ) from error
    return pyarrow


def write_parquet(
    partial: Path, blocks: Iterable[Block], *, rows: int, width: int, data_type: str, about: About, target: Path
) -> None:
    """Writes `rows` rows to the file `partial`, which errors call `target`. Raises ArtifactError as `as_type` does."""
    arrow = pyarrow()
    number = arrow.float16() if data_type == "float16" else arrow.float32()
    fields = [("img_path", arrow.string()), ("person", arrow.int64()), ("camera", arrow.int64())]
    fields += [("split", arrow.string()), ("embedding", arrow.list_(number, width))]
    schema = arrow.schema(fields, metadata=about.pairs())
    options: dict[str, Any] = {"compression": {"embedding.list.element": "NONE"}, "use_dictionary": ["split"]}
    options |= {"write_page_checksum": True, "write_statistics": False}
    with arrow.parquet.ParquetWriter(partial, schema, **options) as writer:
        for block in blocks:
            require_utf8(block.names.paths, target=target)
            numbers = arrow.array(np.ascontiguousarray(as_type(block, data_type, target=target)).reshape(-1))
            names = block.names
            columns = [arrow.array(names.paths, arrow.string()), arrow.array(names.person), arrow.array(names.camera)]
            columns += [arrow.array(names.split, arrow.string())]
            columns += [arrow.FixedSizeListArray.from_arrays(numbers, width)]
            writer.write_batch(arrow.record_batch(columns, schema=schema))


class ParquetFile:
    """A file that write_parquet wrote, or any other with img_path and embedding."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError if the file is missing, damaged or holds something else."""
        self.path, arrow = path, pyarrow()
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file\n  want: a file of embeddings")
        try:
            with self._opened() as file:
                schema, self.rows = file.schema_arrow, file.metadata.num_rows
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None
        twice = sorted(name for name in set(schema.names) if schema.names.count(name) > 1)
        if twice:
            raise self._damaged(f"two columns {twice[0]}")
        self._columns = [name for name in PLAIN if name in schema.names]
        kind = schema.field("embedding").type if "embedding" in schema.names else None
        if kind is None or not arrow.types.is_fixed_size_list(kind):
            raise self._damaged(f"embedding is {kind or 'not there'}")
        if not arrow.types.is_float16(kind.value_type) and not arrow.types.is_float32(kind.value_type):
            raise self._damaged(f"embedding is {kind}")
        if "img_path" not in self._columns or not _is_text(arrow, schema.field("img_path").type):
            raise self._damaged(
                f"img_path is {schema.field('img_path').type if 'img_path' in schema.names else 'not there'}"
            )
        for name in {"person", "camera"} & set(self._columns):
            if not arrow.types.is_integer(schema.field(name).type):
                raise self._damaged(f"{name} is {schema.field(name).type}")
        self.width: int = kind.list_size
        self.data_type = "float16" if arrow.types.is_float16(kind.value_type) else "float32"
        pairs = {name.decode(): text.decode("utf-8", "replace") for name, text in (schema.metadata or {}).items()}
        self.about = About.of_pairs(pairs)

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """The vectors (n, D) of all rows, at most BLOCK_ROWS at a time. Raises ArtifactError if the file is damaged."""
        for batch in self._batches(["embedding"]):
            column = batch.column(0)
            if column.null_count or column.flatten().null_count:
                raise self._damaged("embedding has a null")
            yield column.flatten().to_numpy(zero_copy_only=True).reshape(-1, self.width)

    def names(self) -> Iterator[Names]:
        """The names of all rows, at most BLOCK_ROWS at a time. Raises ArtifactError if the file is damaged."""
        for batch in self._batches(self._columns):
            columns = {name: batch.column(name) for name in self._columns}
            empty = [name for name, column in columns.items() if column.null_count]
            if empty:
                raise self._damaged(f"{empty[0]} has a null")
            names = Names.of_paths(columns["img_path"].to_pylist())
            person, camera = (
                columns[name].to_numpy().astype(np.int64) if name in columns else names.person
                for name in ("person", "camera")
            )
            split = columns["split"].to_pylist() if "split" in columns else names.split
            yield Names(names.paths, person, camera, split)

    def _batches(self, columns: list[str]) -> Iterator[Any]:
        arrow = pyarrow()
        try:
            with self._opened() as file:
                for group in range(file.num_row_groups):  # all at once would be read ahead, and fill the memory
                    yield from file.iter_batches(BLOCK_ROWS, row_groups=[group], columns=columns, use_threads=False)
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise self._damaged(error) from None

    def _opened(self) -> Any:
        # buffered: a row group of another program may be as large as the file; pre_buffer would keep all that was read
        options: dict[str, Any] = {"page_checksum_verification": True, "buffer_size": 1 << 20, "pre_buffer": False}
        return pyarrow().parquet.ParquetFile(self.path, **options)

    def _damaged(self, why: object) -> ArtifactError:
        return ArtifactError(f"{self.path}: not readable as embeddings ({why})\n  {WANT}")


def _is_text(arrow: Any, kind: Any) -> bool:
    return bool(arrow.types.is_string(kind) or arrow.types.is_large_string(kind))
