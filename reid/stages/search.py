"""The search task: the gallery images that are most similar to each query, and whether they show the same person.

Queries and gallery are image files, or files of embeddings that the same model made.

Shapes: Q queries, D width of the embedding.
"""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from reid.console.plain import in_one_line
from reid.console.progress import Progress
from reid.data.market1501 import IMAGE_ENDINGS, LIKE_IMAGES, list_folder
from reid.data.no_images import found_instead
from reid.deploy.opening import OpenModel
from reid.embedding_files.reading import READERS, EmbeddingSet, files_of, read_embeddings
from reid.embedding_files.rows import About, Names, blocks_of, require_utf8
from reid.embedding_files.writing import require_place, write_embeddings
from reid.embeddings import Embeddings
from reid.errors import ArtifactError, DatasetError
from reid.files.hashes import file_sha256
from reid.retrieval.distance import l2_normalize
from reid.retrieval.search import Hits, search
from reid.stages.embed_files import embed_files, require_files
from reid.stages.match import choose_threshold
from reid.thresholds import Threshold, Thresholds

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Hit:
    """A gallery image at its place among the hits of a query."""

    rank: int
    """From 1."""
    path: str
    similarity: float
    """The cosine of the two embeddings, -1 to 1."""
    same_person: bool | None
    """Whether the similarity reaches the threshold; None if no threshold is known."""


@dataclass(frozen=True)
class Searched:
    """What a search found."""

    queries: list[str]
    hits: list[tuple[Hit, ...]]
    """For each query, the most similar first."""
    gallery_rows: int
    threshold: Threshold | None
    measured: Thresholds | None


class Model:
    """The model of the command line, opened only if there are images to embed."""

    def __init__(self, opened: Callable[[], OpenModel], *, batch_size: int) -> None:
        self._opened, self._batch_size = opened, batch_size

    @cached_property
    def opened(self) -> OpenModel:
        """The open model."""
        return self._opened()

    @cached_property
    def about(self) -> About:
        """What its embeddings' files say of it."""
        thresholds = self.opened.thresholds
        return About(
            model_sha256=file_sha256(self.opened.file),
            contract=self.opened.contract.to_json(),
            thresholds=thresholds.to_json() if thresholds else "",
        )

    def embed(self, files: list[Path]) -> "Rows":
        """The rows of image files."""
        return Rows(embed_files(self.opened, files, batch_size=self._batch_size), self.about)


class Rows:
    """Rows in memory, with the methods of an EmbeddingSet that a search needs."""

    def __init__(self, embeddings: Embeddings, about: About) -> None:
        self.embeddings, self.about, self.width = embeddings, about, embeddings.vectors.shape[1]
        self.rows: int | None = len(embeddings)

    def vectors(self) -> Iterator[NDArray[np.floating]]:
        """All vectors in one block."""
        yield self.embeddings.vectors

    def names_of(self, rows: NDArray[np.int64]) -> Names:
        """The names of some rows."""
        return Names.of_paths([self.embeddings.paths[row] for row in rows])


def search_gallery(
    model: Model,
    queries: list[Path],
    gallery: Path,
    *,
    top_k: int,
    false_match_rate: float | None = None,
    save_gallery: Path | None = None,
    same_network: bool = False,
) -> Searched:
    """Embeds what is not embedded yet, and finds the `top_k` most similar gallery rows of each query.

    A gallery in files is read block by block, so that it may be larger than memory. `save_gallery` keeps the embeddings
    of a folder of images. Raises ArtifactError if the files are damaged or empty, or of another model than the queries
    (with same_network only their width counts); DatasetError if there is no image; the errors of `choose_threshold`.
    """
    asked_files = _query_files(queries)
    gallery_files = _gallery_files(gallery)
    if save_gallery:
        _require_saving(save_gallery, gallery_files, gallery)
    embedded = None if gallery_files else _read_gallery(gallery)  # what is wrong with it is known before embedding
    asked = model.embed(asked_files) if asked_files else _read_queries(queries[0])
    found = embedded or model.embed(gallery_files)
    _require_one_model(asked.about, asked.width, found.about, found.width, gallery=gallery, same_network=same_network)
    if save_gallery and isinstance(found, Rows):
        _save(save_gallery, found)
    known, place = asked.about.thresholds, queries[0]
    if not known:
        known, place = found.about.thresholds, gallery
    measured = Thresholds.from_json(known, where=str(place)) if known else None
    threshold = choose_threshold(measured, false_match_rate)
    unit = _unit_vectors(asked.embeddings)
    with Progress("search", total=found.rows or 0, unit="rows") as progress:
        count = min(top_k, found.rows or top_k)
        hits = search(unit, found.vectors(), count=count, seen=progress.update, place=str(gallery))
    named = _named(hits, found.names_of, threshold)
    return Searched(asked.embeddings.paths, named, found.rows or 0, threshold, measured)


def _unit_vectors(queries: Embeddings) -> NDArray[np.float32]:
    """The vectors (Q, D), scaled to length 1. Raises ArtifactError, which names the query, if one has no direction."""
    try:
        return l2_normalize(queries.vectors)
    except ArtifactError as error:
        finite = np.isfinite(queries.vectors).all(axis=1)
        bad = int(np.argmin(finite & queries.vectors.any(axis=1)))
        raise ArtifactError(f"query {queries.paths[bad]}: {error}") from None


def _query_files(queries: list[Path]) -> list[Path]:
    """The image files of the command line, folders searched for theirs; none if it is a file of embeddings."""
    if len(queries) == 1 and queries[0].is_dir() and not _images_in(queries[0]) and files_of(queries[0]):
        return []
    of_embeddings = [path for path in queries if path.suffix.lower() in READERS and not path.is_dir()]
    if of_embeddings and len(queries) > 1:
        raise DatasetError(f"{of_embeddings[0]}: embeddings beside other queries\n  want: that file alone, or images")
    if of_embeddings:
        return []
    files = [file for path in queries for file in (_require_images(path) if path.is_dir() else [path])]
    require_files(files)
    return files


def _gallery_files(gallery: Path) -> list[Path]:
    """The image files of the gallery's folder; none if the gallery is embedded already."""
    if not gallery.is_dir():
        if gallery.suffix.lower() in IMAGE_ENDINGS:
            raise DatasetError(f"{gallery}: one image is no gallery\n  want: a folder, or a file of embeddings")
        return []
    images = _images_in(gallery)
    embedded = files_of(gallery)
    if images and embedded:
        raise DatasetError(
            f"{gallery}: images and files of embeddings\n  found: {images[0].name}, {embedded[0].name}\n"
            "  want: a folder of either, or the file itself"
        )
    return [] if embedded else _require_images(gallery)


def _images_in(folder: Path) -> list[Path]:
    listing = list_folder(folder)
    return [folder / name for name in sorted([*(image.file for image in listing.split.images), *listing.misnamed])]


def _require_images(folder: Path) -> list[Path]:
    if not (images := _images_in(folder)):
        _no_images(folder)
    if others := [file.name for file in folder.iterdir() if file.suffix.lower() in LIKE_IMAGES]:
        logger.warning(
            "%s: %d files are pictures in formats that are not searched (first: %s); convert them to one of %s",
            folder, len(others), in_one_line(min(others)), ", ".join(IMAGE_ENDINGS),
        )  # fmt: skip
    return images


def _no_images(folder: Path) -> NoReturn:
    raise DatasetError(f"{folder}: no image in this folder{found_instead(list_folder(folder))}")


def _read_queries(path: Path) -> Rows:
    read = read_embeddings(path)
    rows = Rows(read.all_rows(), read.about)
    if not rows.rows:
        raise ArtifactError(f"{path}: no embeddings in it\n  want: at least one row")
    return rows


def _read_gallery(path: Path) -> EmbeddingSet:
    read = read_embeddings(path)
    if read.rows == 0:
        raise ArtifactError(f"{path}: no embeddings in it\n  want: at least one row")
    return read


def _require_one_model(
    query: About, query_width: int, gallery_about: About, gallery_width: int, *, gallery: Path, same_network: bool
) -> None:
    """Raises ArtifactError if queries and gallery are of different models; says so if that is not known."""
    if gallery_width != query_width and gallery_width:
        raise ArtifactError(
            f"{gallery}: embeddings of width {gallery_width}\n  want: {query_width}, as those of the queries"
        )
    ours, theirs = query.model_sha256, gallery_about.model_sha256
    if not ours or not theirs:
        logger.warning("%s: nothing says which model its embeddings, or those of the queries, are of", gallery)
    elif ours != theirs and not same_network:
        raise ArtifactError(
            f"{gallery}: embeddings of another model than those of the queries\n"
            f"  found: SHA-256 {theirs}\n  want: {ours}; or --same-network if one file is made from the other"
        )


def _require_saving(path: Path, files: list[Path], gallery: Path) -> None:
    """Raises ReidError now, and not after the images are embedded, if `_save` could not write the file."""
    if not files:
        raise ArtifactError(f"{gallery}: embedded already\n  want: a folder of images with --save-gallery")
    require_place(path, rows=len(files), shard_rows=None)
    if path.suffix.lower() == ".parquet":  # an .npz file holds the bytes of the names
        require_utf8([str(file) for file in files], target=path)


def _save(path: Path, found: Rows) -> None:
    rows = found.embeddings
    write_embeddings(path, blocks_of({"gallery": rows}), rows=len(rows), width=found.width, about=found.about)


def _named(
    hits: Hits, names_of: Callable[[NDArray[np.int64]], Names], threshold: Threshold | None
) -> list[tuple[Hit, ...]]:
    """The hits with their paths, which are looked up once for all queries."""
    rows = np.unique(hits.row[hits.row >= 0])
    path_of = dict(zip(rows.tolist(), names_of(rows).paths, strict=True))
    return [
        tuple(
            Hit(rank, path_of[row], similarity, None if threshold is None else similarity >= threshold.cosine)
            for rank, (row, similarity) in enumerate(zip(of_query, similarities), 1)
            if row >= 0
        )
        for of_query, similarities in zip(hits.row.tolist(), hits.similarity.tolist(), strict=True)
    ]
