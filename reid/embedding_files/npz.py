"""Embeddings as .npz, NumPy's own format: the arrays vectors, paths (UTF-8 bytes), person, camera, split and about.

The file is an uncompressed zip file, so that NumPy, and everything that reads NumPy's files, maps or reads it. It is
written and read in blocks; only the names of the rows are kept while it is written. The checksums of the zip file are
checked at reading.
"""

import json
import zipfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from reid.embedding_files.rows import BLOCK_ROWS, DATA_TYPES, About, Block, Names, as_type
from reid.embeddings import DAMAGE
from reid.errors import ArtifactError

WANT = "want: the arrays vectors (rows, width) and paths (rows)"
DATE = (1980, 1, 1, 0, 0, 0)
"""The date of every part, as numpy.savez gives it: equal content gives equal bytes."""


def write_npz(
    partial: Path, blocks: Iterable[Block], *, rows: int, width: int, data_type: str, about: About, target: Path
) -> None:
    """Writes `rows` rows to the file `partial`, which errors call `target`. Raises ArtifactError as `as_type` does."""
    names: list[Names] = []
    with zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        with _part(archive, "vectors", DATA_TYPES[data_type], (rows, width)) as file:
            for block in blocks:
                file.write(np.ascontiguousarray(as_type(block, data_type, target=target)).data)
                names.append(block.names)
        known = Names.joined(names)
        longest = max((len(path.encode(errors="surrogateescape")) for path in known.paths), default=1)
        with _part(archive, "paths", np.dtype(f"S{max(longest, 1)}"), (rows,)) as file:
            for first in range(0, rows, BLOCK_ROWS):
                encoded = [path.encode(errors="surrogateescape") for path in known.paths[first : first + BLOCK_ROWS]]
                file.write(np.array(encoded, f"S{max(longest, 1)}").tobytes())
        arrays: dict[str, NDArray[Any]] = {"person": known.person.astype("<i8"), "camera": known.camera.astype("<i8")}
        arrays["split"] = np.array([split.encode() for split in known.split], np.bytes_)
        arrays["about"] = np.array(json.dumps(about.pairs(), sort_keys=True).encode(), np.bytes_)
        for name, array in arrays.items():
            with _part(archive, name, array.dtype, array.shape) as file:
                file.write(array.tobytes())


def _part(archive: zipfile.ZipFile, name: str, dtype: np.dtype[Any], shape: tuple[int, ...]) -> IO[bytes]:
    """The part of an array, opened for writing, with NumPy's header written."""
    file = archive.open(zipfile.ZipInfo(f"{name}.npy", DATE), "w", force_zip64=True)
    form: dict[str, Any] = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, form)
    return file


class NpzFile:
    """A file that write_npz wrote, or any other .npz file with vectors and paths."""

    def __init__(self, path: Path) -> None:
        """Raises ArtifactError if the file is missing, damaged or holds something else."""
        self.path = path
        try:
            with zipfile.ZipFile(path) as archive:
                parts = {name.removesuffix(".npy") for name in archive.namelist()}
                vectors, paths = (self._header(archive, name) for name in ("vectors", "paths"))
                self._known = parts & {"person", "camera", "split"}
                about = bytes(self._array(archive, "about")) if "about" in parts else b"{}"
            self.about = About.of_pairs(json.loads(about))
            (self._dtype, shape), (self._path_dtype, path_shape) = vectors, paths
            if self._dtype not in DATA_TYPES.values() or len(shape) != 2 or path_shape != shape[:1]:
                found = f"vectors is {self._dtype} of shape {shape}, paths is {self._path_dtype} of shape {path_shape}"
                raise ValueError(found)
            if self._path_dtype.kind not in "SU":
                raise ValueError(f"paths is {self._path_dtype}")
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file\n  want: a file of embeddings") from None
        except (*DAMAGE, AttributeError) as error:
            raise self._damaged(error) from None
        self.rows, self.width = shape
        self.data_type = "float16" if self._dtype.itemsize == 2 else "float32"

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """The vectors (n, D) of all rows, BLOCK_ROWS at a time. Raises ArtifactError if the file is damaged."""
        yield from self._read("vectors", self._dtype, self.width)

    def names(self) -> Iterator[Names]:
        """The names of all rows, BLOCK_ROWS at a time. Raises ArtifactError if the file is damaged."""
        try:
            with zipfile.ZipFile(self.path) as archive:
                arrays = {name: self._array(archive, name) for name in self._known}
            bad = [name for name, array in arrays.items() if array.shape != (self.rows,)]
            bad += [name for name in {"person", "camera"} & arrays.keys() if arrays[name].dtype.kind != "i"]
            if bad:
                raise ValueError(f"{bad[0]} is {arrays[bad[0]].dtype} of shape {arrays[bad[0]].shape}")
            first = 0
            for block in self._read("paths", self._path_dtype, 1):
                paths = [
                    path.decode(errors="surrogateescape") if isinstance(path, bytes) else path
                    for path in block[:, 0].tolist()
                ]
                names, rows = Names.of_paths(paths), slice(first, first + len(paths))
                split = [text.decode() for text in arrays["split"][rows].tolist()] if "split" in arrays else names.split
                person, camera = (arrays[name][rows] if name in arrays else names.person for name in _NUMBERS)
                yield Names(paths, person, camera, split)
                first += len(paths)
        except (*DAMAGE, AttributeError) as error:
            raise self._damaged(error) from None

    def _read(self, name: str, dtype: np.dtype[Any], columns: int) -> Iterator[NDArray[Any]]:
        try:
            with zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
                _header(file)
                left = self.rows
                while left:
                    data = bytearray(min(left, BLOCK_ROWS) * columns * dtype.itemsize)
                    if _fill(file, data) < len(data):
                        raise ValueError(f"{name} ends too early")
                    left -= min(left, BLOCK_ROWS)
                    yield np.frombuffer(data, dtype).reshape(-1, columns)
                if file.read(1):
                    raise ValueError(f"{name} is longer than its header says")
        except DAMAGE as error:
            raise self._damaged(error) from None

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[np.dtype[Any], tuple[int, ...]]:
        with archive.open(f"{name}.npy") as file:
            return _header(file)

    def _array(self, archive: zipfile.ZipFile, name: str) -> NDArray[Any]:
        with archive.open(f"{name}.npy") as file:
            array: NDArray[Any] = np.lib.format.read_array(file, allow_pickle=False)
            return array

    def _damaged(self, error: Exception) -> ArtifactError:
        text = error.args[0] if isinstance(error, KeyError) else error
        return ArtifactError(f"{self.path}: not readable as embeddings ({text})\n  {WANT}")


_NUMBERS = ("person", "camera")


def _header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    """The type and the shape that NumPy's header states. Raises ValueError if it is not in C order."""
    version = np.lib.format.read_magic(file)  # type: ignore[no-untyped-call]
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(version)
    if read is None:
        raise ValueError(f"NumPy's format {version}")
    shape, fortran_order, dtype = read(file)  # type: ignore[no-untyped-call]
    if fortran_order and len(shape) > 1:
        raise ValueError("an array in Fortran's order")
    return dtype, shape


def _fill(file: IO[bytes], data: bytearray) -> int:
    """Reads into `data` until it is full or the file ends; returns the number of bytes."""
    view, done = memoryview(data), 0
    while done < len(data):
        got = file.readinto(view[done:])  # type: ignore[attr-defined]
        if not got:
            break
        done += got
    return done
