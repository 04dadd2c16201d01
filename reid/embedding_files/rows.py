"""What a file of embeddings holds, whatever its format: rows in blocks, and what is known about all of them.

Shapes: n rows of a block, D width of the embedding.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.embeddings import Embeddings
from reid.errors import ArtifactError

BLOCK_ROWS = 8192
"""Number of rows that are written, and read, together."""
DATA_TYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float16": np.dtype("<f2")}
"""What a number of a vector may be in a file."""
MODEL, CONTRACT, THRESHOLDS = "reid.model_sha256", "reid.contract", "reid.thresholds"
NORMALISED, SET = "reid.normalised", "reid.set"


@dataclass(frozen=True)
class About:
    """What is known about all rows of a file; a file of another program knows nothing."""

    model_sha256: str = ""
    """SHA-256 of the model's file; "" if it is not known."""
    contract: str = ""
    """The model's contract as JSON; "" if it is not known."""
    thresholds: str = ""
    """The model's thresholds as JSON; "" if there are none."""
    normalised: bool = False
    """Whether every vector has length 1."""
    shard_set: str = ""
    """A name that all files of one sharded set share; "" for a single file."""

    def pairs(self) -> dict[str, str]:
        """The pairs of names and texts that a file holds."""
        texts = {MODEL: self.model_sha256, CONTRACT: self.contract, THRESHOLDS: self.thresholds, SET: self.shard_set}
        return {NORMALISED: "yes" if self.normalised else "no"} | {name: text for name, text in texts.items() if text}

    @classmethod
    def of_pairs(cls, pairs: Mapping[str, str]) -> "About":
        """The reverse of `pairs`; other names are ignored."""
        return cls(
            pairs.get(MODEL, ""),
            pairs.get(CONTRACT, ""),
            pairs.get(THRESHOLDS, ""),
            pairs.get(NORMALISED) == "yes",
            pairs.get(SET, ""),
        )


@dataclass(frozen=True)
class Names:
    """Whose vectors the rows of a block are."""

    paths: list[str]
    person: NDArray[np.int64]
    """(n,): -1 junk, 0 distractor or unknown."""
    camera: NDArray[np.int64]
    """(n,): from 1; 0 if it is unknown."""
    split: list[str]
    """query or gallery; "" if it is unknown."""

    @classmethod
    def of_paths(cls, paths: list[str]) -> "Names":
        """The names of rows of which nothing but their paths is known."""
        return cls(paths, np.zeros(len(paths), np.int64), np.zeros(len(paths), np.int64), [""] * len(paths))

    @classmethod
    def joined(cls, parts: "list[Names]") -> "Names":
        """All rows of the parts in their order."""
        return cls(
            [path for part in parts for path in part.paths],
            np.concatenate([np.zeros(0, np.int64), *(part.person for part in parts)]),
            np.concatenate([np.zeros(0, np.int64), *(part.camera for part in parts)]),
            [split for part in parts for split in part.split],
        )

    def rows(self, rows: slice) -> "Names":
        """Some of the rows."""
        return Names(self.paths[rows], self.person[rows], self.camera[rows], self.split[rows])


@dataclass(frozen=True)
class Block:
    """Some successive rows."""

    names: Names
    vectors: NDArray[np.floating]
    """(n, D)."""

    def __len__(self) -> int:
        return len(self.vectors)

    def rows(self, first: int, end: int) -> "Block":
        """The rows from `first` to `end`."""
        return Block(self.names.rows(slice(first, end)), self.vectors[first:end])


def blocks_of(parts: Mapping[str, Embeddings]) -> Iterator[Block]:
    """The rows of embeddings by the names of their splits, in blocks that are views."""
    for split, part in parts.items():
        for first in range(0, len(part), BLOCK_ROWS):
            rows = slice(first, first + BLOCK_ROWS)
            paths = part.paths[rows]
            yield Block(Names(paths, part.person[rows], part.camera[rows], [split] * len(paths)), part.vectors[rows])


class Cutter:
    """Cuts blocks of any lengths into files and into blocks of one length."""

    def __init__(self, blocks: Iterable[Block]) -> None:
        self._blocks, self._left = iter(blocks), None

    _left: Block | None

    def take(self, rows: int) -> Iterator[Block]:
        """The next `rows` rows, BLOCK_ROWS at a time."""
        while rows > 0:
            block = self._next(min(rows, BLOCK_ROWS))
            rows -= len(block)
            yield block

    def _next(self, rows: int) -> Block:
        parts: list[Block] = []
        while rows:
            block = self._left if self._left is not None else next(self._blocks)
            parts.append(block.rows(0, rows))
            self._left = block.rows(rows, len(block)) if len(block) > rows else None
            rows -= len(parts[-1])
        if len(parts) == 1:
            return parts[0]
        return Block(Names.joined([part.names for part in parts]), np.concatenate([part.vectors for part in parts]))


def require_utf8(paths: Sequence[str], *, target: Path) -> None:
    """Raises ArtifactError, which names the file `target`, if a path is not UTF-8, as text in it has to be."""
    try:
        "".join(paths).encode()
    except UnicodeEncodeError:
        bad = [path for path in paths if any("\ud800" <= character <= "\udfff" for character in path)]
        raise ArtifactError(
            f"{target}: {len(bad)} of {len(paths)} file names are not UTF-8\n"
            f"  first: {bad[0]!r}\n  want: files of other names, or .npz or .json"
        ) from None


def as_type(block: Block, data_type: str, *, target: Path) -> NDArray[np.floating]:
    """The block's vectors (n, D) as numbers of the file's type. Raises ArtifactError if one is not finite in it."""
    with np.errstate(over="ignore"):  # told below, with the image
        vectors = block.vectors.astype(DATA_TYPES[data_type], copy=False)
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise ArtifactError(
            f"{target}: {bad.size} of {len(vectors)} embeddings of a block are not finite as {data_type}\n"
            f"  first: {block.names.paths[bad[0]]}"
        )
    return vectors
