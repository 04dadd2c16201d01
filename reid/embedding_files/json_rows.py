"""Embeddings as JSON, a list of {"img_path", "embedding"}: TAO's rows and ours, read one after the other."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reid.embedding_files.rows import BLOCK_ROWS, About, Names
from reid.errors import ArtifactError

WANT = 'want: a list of {"img_path": text, "embedding": [numbers]}, all of one length'
PIECE = 1 << 20
"""Number of characters that are read at a time."""
LONGEST_ROW = 8 << 20
"""Largest number of characters of a row, about."""
DECODER = json.JSONDecoder()


class JsonFile:
    """A file of rows. What model they are of is unknown, and so is their number before they have been read."""

    rows: int | None = None
    data_type = "float32"

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError if the file is missing, or if its first row is not one."""
        self.path, self.about = path, About()
        self._paths: list[str] | None = None
        if not path.is_file():
            raise ArtifactError(f"{path}: no such file\n  want: a file of embeddings")
        first = next(self._rows(), None)
        self.width = len(first[1]) if first else 0
        if first is None:
            self.rows = 0

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """The vectors (n, D) of all rows, at most BLOCK_ROWS at a time. Raises ArtifactError if the file is damaged."""
        paths: list[str] = []
        block: list[NDArray[np.float32]] = []
        for path, vector in self._rows():
            if len(vector) != self.width:
                raise self._damaged(f"row {len(paths) + 1} has {len(vector)} numbers, the first has {self.width}")
            paths.append(path)
            block.append(vector)
            if len(block) == BLOCK_ROWS:
                yield np.stack(block)
                block = []
        if block:
            yield np.stack(block)
        self._paths, self.rows = paths, len(paths)

    def names(self) -> Iterator[Names]:
        """The names of all rows, at most BLOCK_ROWS at a time; kept from the first time that all rows were read."""
        if self._paths is None:
            for _ in self.vectors():
                pass
        assert self._paths is not None
        for first in range(0, len(self._paths), BLOCK_ROWS):
            yield Names.of_paths(self._paths[first : first + BLOCK_ROWS])

    def _rows(self) -> Iterator[tuple[str, NDArray[np.float32]]]:
        number = 0
        try:
            for row in self._values():
                number += 1
                vector = np.array(row["embedding"], np.float64)
                if vector.ndim != 1 or not len(vector) or not isinstance(row["img_path"], str):
                    raise TypeError("want a text and a list of numbers")
                with np.errstate(over="ignore"):
                    yield row["img_path"], vector.astype(np.float32)
        except (KeyError, TypeError) as error:
            raise self._damaged(f"row {number}: {type(error).__name__}: {error}") from None
        except (OSError, ValueError, RecursionError) as error:
            raise self._damaged(f"after {number} rows: {error}") from None

    def _values(self) -> Iterator[Any]:
        """The values of the list. Raises ValueError if the text is no list of values."""
        with self.path.open(encoding="utf-8") as file:
            text = _Text(file)
            if text.next() != "[":
                raise ValueError(f"found {text.next()!r}, want a list")
            text.skip()
            if text.next() != "]":
                yield text.value()
            while text.next() == ",":
                text.skip()
                yield text.value()
            if text.next() != "]":
                raise ValueError(f"found {text.next()!r}, want a comma or the end of the list")
            text.skip()
            if text.next():
                raise ValueError("more after the end of the list")

    def _damaged(self, why: str) -> ArtifactError:
        return ArtifactError(f"{self.path}: not readable as embeddings ({why})\n  {WANT}")


class _Text:
    """The text of a file, of which only a few pieces are in memory."""

    def __init__(self, file: IO[str]) -> None:
        self._file, self._text, self._at = file, "", 0

    def next(self) -> str:
        """The next character that is no white space; "" at the end."""
        while True:
            while self._at < len(self._text) and self._text[self._at].isspace():
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._read():
                return ""

    def skip(self) -> None:
        """Goes beyond one character."""
        self._at += 1

    def value(self) -> Any:
        """The next value, and goes beyond it."""
        self.next()
        while True:
            try:
                value, self._at = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError:  # perhaps not all of it has been read
                if len(self._text) - self._at > LONGEST_ROW or not self._read():
                    raise
            else:
                return value

    def _read(self) -> bool:
        piece = self._file.read(PIECE)
        self._text, self._at = self._text[self._at :] + piece, 0
        return bool(piece)
