"""Writes embeddings as .npz or .parquet, in one file or in several, block by block."""

import hashlib
import logging
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from reid.console.progress import Progress
from reid.embedding_files.npz import write_npz
from reid.embedding_files.parquet import pyarrow, write_parquet
from reid.embedding_files.rows import About, Block, Cutter
from reid.embedding_files.shards import files_of_set, remove_others
from reid.errors import ArtifactError
from reid.files.writing import replacing, require_writable

logger = logging.getLogger(__name__)

WRITERS: dict[str, Callable[..., None]] = {".npz": write_npz, ".parquet": write_parquet}
"""File ending -> what writes a file of it."""


def require_place(path: Path, *, rows: int, shard_rows: int | None) -> None:
    """Raises ReidError now, and not after hours of work, if `write_embeddings` could not write these files."""
    _require_ending(path)
    if path.suffix.lower() == ".parquet":
        pyarrow()
    require_writable(files_of_set(path, rows=rows, shard_rows=shard_rows)[0])


def write_embeddings(
    path: Path,
    blocks: Iterable[Block],
    *,
    rows: int,
    width: int,
    about: About,
    data_type: str = "float32",
    shard_rows: int | None = None,
) -> list[Path]:
    """Writes blocks of together `rows` rows to the file, in the format of its ending; returns the files.

    With shard_rows they are NAME-00000-of-0000K and so on, of that many rows each. Memory holds some blocks and the
    names of a file's rows. A file that is there is replaced only when all files are complete; files of the same name
    that belong to another number of shards are removed then. A process that is killed while it renames the files leaves
    shards of two sets: `read_embeddings` refuses them. Raises ArtifactError if a number is not finite as data_type.
    """
    write = _require_ending(path)
    files = files_of_set(path, rows=rows, shard_rows=shard_rows)
    if len(files) > 1:
        about = replace(about, shard_set=_set_name(about, rows=rows, width=width, data_type=data_type))
    cutter, left = Cutter(blocks), rows
    with ExitStack() as stack, Progress(path.name, total=rows, unit="rows") as progress:
        for file in files:
            part = min(left, shard_rows or rows)
            partial = stack.enter_context(replacing(file))
            taken = cutter.take(part)
            write(partial, taken, rows=part, width=width, data_type=data_type, about=about, target=file)
            left -= part
            progress.update(rows - left)
    for other in remove_others(path, keep=files):
        logger.info(
            "%s: removed; the rows are now in %s", other, files[0] if len(files) == 1 else f"{len(files)} files"
        )
    return files


def _require_ending(path: Path) -> Callable[..., None]:
    writer = WRITERS.get(path.suffix.lower())
    if writer is None:
        raise ArtifactError(f"{path}: not an ending of embeddings\n  want: one of {', '.join(WRITERS)}")
    return writer


def _set_name(about: About, *, rows: int, width: int, data_type: str) -> str:
    """A name for the set, equal for equal models and forms."""
    text = f"{sorted(about.pairs().items())} {rows} {width} {data_type}"
    return hashlib.sha256(text.encode()).hexdigest()[:16]
