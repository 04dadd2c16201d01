"""The client task: embeddings of images from a Triton server, as the JSON of the inference stage."""

import logging
import re
import tempfile
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from reid.data.chosen_folders import Folder, manifest_of
from reid.data.file_index import read_image
from reid.data.file_names import ANY
from reid.data.market1501 import DISTRACTOR, PersonImage, Split
from reid.data.on_disk import ImagesOnDisk
from reid.deploy.triton_client import TritonModel
from reid.embeddings import Embeddings, embed, write_json
from reid.errors import DatasetError
from reid.files.writing import require_writable
from reid.stages.outcome import Outcome

logger = logging.getLogger(__name__)

RESULTS = "results.json"
"""The name that TAO's client gives it."""
JUNK_NAME = re.compile(r"-1_c\d")
"""The beginning of the name of a junk image; TAO's client, too, knows one by it."""


def client(model: TritonModel, *, query: Path, gallery: Path | None, output: Path) -> Outcome:
    """Writes `output`/results.json: {"img_path", "embedding"} of all query, then all gallery images.

    `query` is a folder or one image. Files may have any names; junk of the gallery is left out, as in TAO's client.
    Raises DatasetError if a file or folder is missing, if a folder is empty, and if an image is unreadable;
    ArtifactError if the output cannot be written.
    """
    require_writable(output / RESULTS)
    splits = _splits(query, gallery)
    started = time.perf_counter()
    parts = ask(model, splits)
    seconds = time.perf_counter() - started
    write_json(output / RESULTS, *parts.values())
    rows = sum(len(part) for part in parts.values())
    return Outcome(
        {
            "rows": float(rows),
            "embedding_width": float(model.contract.embedding),
            "images_per_second": rows / max(seconds, 1e-9),
        },
        {},
        [
            f"model file: SHA-256 {model.digest or 'not said by the server'}",
            f"{rows:,} embeddings of width {model.contract.embedding}: {output / RESULTS}",
        ],
    )


def _splits(query: Path, gallery: Path | None) -> dict[str, Split]:
    """The images of query and gallery; without a gallery only those of query."""
    one_image = _one_image(query) if query.is_file() else None
    if one_image and not gallery:
        return {"query": one_image}
    folders = {
        "train": Folder(None, ""),
        "query": Folder(None if one_image else str(query.absolute()), "the folder or file to embed"),
        "gallery": Folder(str(gallery.absolute()) if gallery else None, "--test_dir"),
    }
    needed = [name for name in ("query", "gallery") if folders[name].path]
    with tempfile.TemporaryDirectory() as folder:
        index_file = Path(folder) / "index.json"
        manifest = manifest_of(folders, needed=needed, names=ANY, index_file=index_file)
    splits = {"query": one_image or manifest.query}
    return splits | {"gallery": _without_junk(manifest.gallery)} if gallery else splits


def _one_image(file: Path) -> Split:
    """A split of one image."""
    file = file.absolute()
    if error := read_image(file).error:
        raise DatasetError(f"{file}: the image cannot be read: {error}")
    return Split(file.parent, (PersonImage(file.name, DISTRACTOR, 1),))


def _without_junk(gallery: Split) -> Split:
    """The gallery without its junk, which is logged."""
    kept = tuple(image for image in gallery.images if not JUNK_NAME.match(image.file))
    if junk := len(gallery) - len(kept):
        logger.info("--test_dir: %d of %d images are junk (-1_c…) and left out", junk, len(gallery))
    return replace(gallery, images=kept)


def ask(model: TritonModel, splits: Mapping[str, Split]) -> dict[str, Embeddings]:
    """The embeddings of each split's images, prepared as the server's contract says.

    Raises ServerError if the server's model was another one in between: nothing of two models is mixed.
    """
    contract = model.contract
    height, width = (model.pixels.height, model.pixels.width) if model.pixels else (None, None)
    size = {"height": height or contract.height, "width": width or contract.width, "channels": contract.channels}
    parts = {
        name: embed(
            split,
            ImagesOnDisk(split, **size),
            model.network,
            contract=contract,
            batch_size=model.batch_size * model.in_flight,
            what=f"embedding {name}",
        )
        for name, split in splits.items()
    }
    model.check_unchanged()
    return parts
