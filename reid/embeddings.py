"""Embeddings of images: the value object, how images become one, and its files (JSON as TAO writes it, npz).

Shapes: N images, D width of the embedding, B batch, H x W x C pixels. Vectors are as the network gives them, not
normalised.
"""

import json
import zipfile
import zlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.contract import Contract
from reid.data.market1501 import JUNK
from reid.distributed.ranks import SINGLE_PROCESS, Ranks
from reid.errors import ArtifactError
from reid.files.writing import replacing

if TYPE_CHECKING:
    from reid.data.market1501 import Split

Network = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Preprocessed images (B, C, H, W) -> embeddings (B, D): the common form of torch, ONNX Runtime and TensorRT."""


@dataclass(frozen=True)
class OfPixels:
    """A network that prepares the images itself, and computes while its caller does other work."""

    start: Callable[[NDArray[np.uint8]], Callable[[], NDArray[np.float32]]]
    """Images (B, H, W, C) -> a function that waits for their embeddings (B, D) and returns them."""

    @classmethod
    def preprocessed(cls, network: Network, contract: Contract) -> "OfPixels":
        """The network as one that prepares images by the contract, and computes at once."""

        def start(pixels: NDArray[np.uint8]) -> Callable[[], NDArray[np.float32]]:
            vectors = network(contract.preprocess(pixels))
            return lambda: vectors

        return cls(start)


class Pixels(Protocol):
    """Decoded images (N, H, W, C) uint8: an array, a memory map, or an object that decodes rows when they are read."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64], /) -> NDArray[np.uint8]: ...


UNTRAINED_EMBEDDINGS = "untrained_embeddings.npz"
"""The file in a model directory that holds query and gallery, embedded before the first step."""
JSON_BLOCK_ROWS = 1024
ARRAYS = {"paths": ("S", 1), "person": ("i", 1), "camera": ("i", 1), "vectors": ("f", 2)}
"""The arrays of the npz file: kind of number (S: bytes) and number of dimensions."""
DAMAGE = (
    *(OSError, ValueError, KeyError, EOFError, TypeError, SyntaxError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
"""The errors that reading a damaged npz file raises; which one depends on the place of the damage."""


@dataclass(frozen=True)
class Embeddings:
    """One vector per image, with the image's person and camera, which scoring needs."""

    paths: list[str]
    """N absolute paths."""
    person: NDArray[np.int64]
    """(N,): the person of each image; -1 junk, 0 distractor."""
    camera: NDArray[np.int64]
    """(N,): the camera of each image, from 1."""
    vectors: NDArray[np.float32]
    """(N, D)."""

    def __len__(self) -> int:
        return len(self.paths)

    @classmethod
    def joined(cls, *parts: "Embeddings") -> "Embeddings":
        """All rows of the parts in their order, as an npz file holds query and gallery."""
        return cls(
            [path for part in parts for path in part.paths],
            np.concatenate([part.person for part in parts]),
            np.concatenate([part.camera for part in parts]),
            np.concatenate([part.vectors for part in parts]),
        )

    def of(self, split: "Split") -> "Embeddings":
        """The rows of a split's images, in the split's order; raises ArtifactError if an image has none."""
        row_of = {path: row for row, path in enumerate(self.paths)}
        wanted = [str(path) for path in split.paths]
        missing = [path for path in wanted if path not in row_of]
        if missing:
            raise ArtifactError(
                f"embeddings: {len(missing)} of {len(wanted)} images of {split.root} have none\n  first: {missing[0]}"
            )
        rows = np.array([row_of[path] for path in wanted], np.int64)
        return Embeddings(wanted, split.person, split.camera, self.vectors[rows])

    def without_junk(self) -> "Embeddings":
        """The rows of all images but junk (person -1), which a gallery is ranked without."""
        keep = self.person != JUNK
        paths = [path for path, kept in zip(self.paths, keep) if kept]
        return Embeddings(paths, self.person[keep], self.camera[keep], self.vectors[keep])

    def save_npz(self, path: Path) -> None:
        """Writes the arrays paths (bytes, as on the disk), person, camera, vectors; equal content gives equal bytes."""
        encoded = np.array([name.encode(errors="surrogateescape") for name in self.paths], dtype=np.bytes_)
        with replacing(path) as partial, partial.open("wb") as file:
            np.savez(file, paths=encoded, person=self.person, camera=self.camera, vectors=self.vectors)

    @classmethod
    def load_npz(cls, path: Path) -> "Embeddings":
        """Reads what save_npz wrote; raises ArtifactError if the file is missing, damaged, or holds something else."""
        try:
            with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in ARRAYS}
            bad = [name for name, form in ARRAYS.items() if (arrays[name].dtype.kind, arrays[name].ndim) != form]
            if bad:
                raise ValueError(f"{bad[0]} is {arrays[bad[0]].dtype} of shape {arrays[bad[0]].shape}")
            names = [name.decode(errors="surrogateescape") for name in arrays["paths"].tolist()]
        except FileNotFoundError:
            raise ArtifactError(f"{path}: no such file\n  want: embeddings as .npz") from None
        except DAMAGE as error:
            raise ArtifactError(
                f"{path}: not readable as embeddings ({error})\n  want: arrays {tuple(ARRAYS)}"
            ) from None
        sizes = [len(array) for array in arrays.values()]
        if len(set(sizes)) != 1:
            raise ArtifactError(f"{path}: arrays {tuple(ARRAYS)} of lengths {sizes}\n  want: one length")
        return cls(names, arrays["person"], arrays["camera"], arrays["vectors"])


def embed(
    split: "Split",
    pixels: Pixels,
    network: Network | OfPixels,
    *,
    contract: Contract,
    batch_size: int,
    what: str,
    keep: NDArray[np.bool_] | None = None,
    ranks: Ranks = SINGLE_PROCESS,
    between: Callable[[], None] = lambda: None,
) -> Embeddings:
    """pixels (N, H, W, C) of a split's images -> their embeddings; with `keep` (N,), of those images only.

    It works batch by batch, so that a memory map of any length takes only a batch of memory and the vectors. Several
    `ranks` take turns at the batches that one process would make; only rank 0 has all vectors in the end. `between` is
    called before each round of batches, equally often on every rank; `what` names the work in progress lines. Raises
    ArtifactError if the network's output is not (B, contract.embedding) or not finite.
    """
    if len(pixels) != len(split.images):
        raise ArtifactError(
            f"{split.root}: {len(pixels)} decoded images\n  want: {len(split.images)}, one for each file"
        )
    rows = np.arange(len(pixels)) if keep is None else np.flatnonzero(keep)
    paths = [str(split.root / split.images[row].file) for row in rows]
    vectors = np.empty((len(rows), contract.embedding), np.float32)
    network = network if isinstance(network, OfPixels) else OfPixels.preprocessed(network, contract)
    waiting: deque[tuple[slice, Callable[[], NDArray[np.float32]]]] = deque()

    def fetch() -> None:
        part, wait = waiting.popleft()
        output = np.asarray(wait())
        _check_output(output, paths[part], width=contract.embedding)
        vectors[part] = output

    starts = np.arange(0, len(rows), batch_size)
    with Progress(what, total=len(rows)) as progress:
        for turn in range(0, len(starts), ranks.size):
            between()
            for start in starts[turn + ranks.rank : turn + ranks.rank + 1]:
                part = slice(start, min(start + batch_size, len(rows)))
                waiting.append((part, network.start(pixels[rows[part]])))
            if len(waiting) > 1:  # the network is always given one batch more than is waited for
                fetch()
            progress.update(min((turn + ranks.size) * batch_size, len(rows)))
        while waiting:
            fetch()
    batch_of = np.arange(len(rows)) // batch_size
    ranks.collect(vectors, [np.flatnonzero(batch_of % ranks.size == rank) for rank in range(ranks.size)])
    return Embeddings(paths, split.person[rows], split.camera[rows], vectors)


def _check_output(output: NDArray[Any], paths: list[str], *, width: int) -> None:
    if output.shape != (len(paths), width):
        raise ArtifactError(
            f"network: output of shape {output.shape}\n  want: {(len(paths), width)} (images, embedding)"
        )
    bad = np.flatnonzero(~np.isfinite(output).all(axis=1))
    if len(bad):
        raise ArtifactError(
            f"network: {len(bad)} of {len(paths)} embeddings of a batch are not finite\n  first: {paths[bad[0]]}"
        )


def write_json(path: Path, *embeddings: Embeddings) -> None:
    """Writes rows {"img_path", "embedding"} as one JSON list, one row a line, in the order given: query, then gallery.

    Numbers have nine significant digits, the fewest that give every float32 back exactly. Memory does not grow with the
    rows. Raises ArtifactError if a vector is not finite, since JSON has no such number.
    """
    with (
        replacing(path) as partial,
        partial.open("w", encoding="utf-8") as file,
        Progress(path.name, total=sum(len(part) for part in embeddings), unit="rows") as progress,
    ):
        separator, written = "[\n", 0
        for part in embeddings:
            numbers = ", ".join(["%.9g"] * part.vectors.shape[1])
            for start in range(0, len(part), JSON_BLOCK_ROWS):
                block = part.vectors[start : start + JSON_BLOCK_ROWS]
                names = part.paths[start : start + JSON_BLOCK_ROWS]
                _check_output(block, names, width=part.vectors.shape[1])
                for name, vector in zip(names, block.tolist()):
                    file.write(
                        f'{separator}{{"img_path": {json.dumps(name)}, "embedding": [{numbers % tuple(vector)}]}}'
                    )
                    separator = ",\n"
                written += len(names)
                progress.update(written)
        file.write("[\n]\n" if written == 0 else "\n]\n")
