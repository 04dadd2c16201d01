"""Reads files of embeddings of any format, one file or many, block by block.

for vectors in read_embeddings(Path("embeddings.parquet")).vectors(): ...
"""

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from reid.embedding_files.json_rows import JsonFile
from reid.embedding_files.npz import NpzFile
from reid.embedding_files.parquet import ParquetFile
from reid.embedding_files.rows import About, Names
from reid.embedding_files.shards import SHARD, shards_beside, whole_set
from reid.embeddings import Embeddings
from reid.errors import ArtifactError


class EmbeddingFile(Protocol):
    """One file of embeddings, opened."""

    path: Path
    width: int
    data_type: str
    about: About

    @property
    def rows(self) -> int | None:
        """Number of rows; None if it is not known before all have been read."""

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """The vectors (n, D) of all rows in blocks. Raises ArtifactError if the file is damaged."""

    def names(self) -> Iterator[Names]:
        """The names of all rows in blocks. Raises ArtifactError if the file is damaged."""


READERS: dict[str, Callable[[Path], EmbeddingFile]] = {".json": JsonFile, ".npz": NpzFile, ".parquet": ParquetFile}
"""File ending -> what opens a file of it."""
IN_FOLDERS = (".npz", ".parquet")
"""The endings that are looked for in a folder: its JSON files may be anything."""


class EmbeddingSet:
    """The rows of one or several files of embeddings, which are of one model."""

    def __init__(self, files: Sequence[EmbeddingFile], *, place: Path) -> None:
        """`place` names the set in errors. Raises ArtifactError if the files are of several widths or models."""
        self.place, self._files = place, files
        first = files[0]
        self.width, self.about = first.width, first.about
        for file in files[1:]:
            for what, found, wanted in (
                ("width", file.width, first.width),
                ("model's SHA-256", file.about.model_sha256 or "unknown", first.about.model_sha256 or "unknown"),
                ("shard set", file.about.shard_set or "none", first.about.shard_set or "none"),
            ):
                if found != wanted:
                    raise ArtifactError(
                        f"{file.path}: embeddings of another {what} than those of {first.path}\n"
                        f"  found: {found}\n  want: {wanted}, in all files that are read together"
                    )

    @property
    def rows(self) -> int | None:
        """Number of rows; None if it is not known before all have been read."""
        counts = [file.rows for file in self._files]
        return None if None in counts else sum(count for count in counts if count is not None)

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """The vectors (n, D) of all rows in blocks. Raises ArtifactError if a file is damaged."""
        for file in self._files:
            yield from file.vectors()

    def names(self) -> Iterator[Names]:
        """The names of all rows in blocks. Raises ArtifactError if a file is damaged."""
        for file in self._files:
            yield from file.names()

    def names_of(self, rows: NDArray[np.int64]) -> Names:
        """The names of some rows, given in rising order, in bounded memory."""
        found, first = [], 0
        for block in self.names():
            begin, end = np.searchsorted(rows, [first, first + len(block.paths)])
            found.append(_picked(block, rows[begin:end] - first))
            first += len(block.paths)
        return Names.joined(found)

    def all_rows(self) -> Embeddings:
        """All rows in memory, as float32; person and camera are 0 if the files do not say them."""
        vectors = [np.asarray(block, np.float32) for block in self.vectors()]
        names = Names.joined(list(self.names()))
        whole = np.concatenate([np.zeros((0, self.width), np.float32), *vectors])
        return Embeddings(names.paths, names.person, names.camera, whole)


def read_embeddings(path: Path) -> EmbeddingSet:
    """Opens a file of embeddings (.json, .npz, .parquet), the shards of its name, or all such files of a folder.

    Of a folder, .npz and .parquet are read, sorted by name. Raises ArtifactError if there is none, if one is damaged or
    holds something else, if a shard of a set is missing, or if the files are of several models or widths.
    """
    files = files_of(path)
    if not files:
        raise ArtifactError(f"{path}: no embeddings in this folder\n  want: files that end in {', '.join(IN_FOLDERS)}")
    return EmbeddingSet([_open(file) for file in files], place=path)


def files_of(path: Path) -> list[Path]:
    """The files that `read_embeddings` opens; none for a folder without one."""
    if path.is_dir():
        return whole_set([entry for entry in path.iterdir() if entry.suffix.lower() in IN_FOLDERS and entry.is_file()])
    if not path.exists() and (shards := shards_beside(path)):
        return whole_set(shards)
    return [path]


def is_embedding_file(path: Path) -> bool:
    """Whether the name is that of a file of embeddings, or of a set of shards."""
    return path.suffix.lower() in READERS


def _open(file: Path) -> EmbeddingFile:
    reader = READERS.get(file.suffix.lower())
    if reader is None and not file.exists():
        raise ArtifactError(f"{file}: no such file or folder\n  want: a file of embeddings, or a folder")
    if reader is None:
        raise ArtifactError(f"{file}: not a file of embeddings\n  want: one of {', '.join(READERS)}")
    opened = reader(file)
    if opened.about.shard_set and not SHARD.fullmatch(file.stem):
        raise ArtifactError(
            f"{file}: one file of a set, under another name\n  want: NAME-00000-of-0000K and all others"
        )
    return opened


def _picked(block: Names, rows: NDArray[np.int64]) -> Names:
    chosen = rows.tolist()
    return Names(
        [block.paths[row] for row in chosen],
        block.person[rows],
        block.camera[rows],
        [block.split[row] for row in chosen],
    )
