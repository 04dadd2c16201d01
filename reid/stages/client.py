"""The client task: embeddings of two folders from a Triton server, as the JSON of the inference stage."""

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from reid.data.chosen_folders import Folder, manifest_of
from reid.data.file_names import ANY
from reid.data.market1501 import Split
from reid.data.on_disk import ImagesOnDisk
from reid.deploy.triton_client import TritonModel
from reid.embeddings import Embeddings, embed, write_json
from reid.stages.outcome import Outcome

RESULTS = "results.json"
"""The name that TAO's client gives it."""


def client(model: TritonModel, *, query: Path, gallery: Path, output: Path) -> Outcome:
    """Writes `output`/results.json: {"img_path", "embedding"} of all query, then all gallery images, as inference does.

    Files may have any names. Raises DatasetError if a folder is missing or empty, or has an unreadable image.
    """
    folders = {
        "train": Folder(None, ""),
        "query": Folder(str(query.absolute()), "query_dir"),
        "gallery": Folder(str(gallery.absolute()), "--test_dir"),
    }
    with tempfile.TemporaryDirectory() as folder:
        index_file = Path(folder) / "index.json"
        manifest = manifest_of(folders, needed=("query", "gallery"), names=ANY, index_file=index_file)
    started = time.perf_counter()
    parts = ask(model, {"query": manifest.query, "gallery": manifest.gallery})
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
        [f"{rows:,} embeddings of width {model.contract.embedding}: {output / RESULTS}"],
    )


def ask(model: TritonModel, splits: Mapping[str, Split]) -> dict[str, Embeddings]:
    """The embeddings of each split's images, prepared as the server's contract says."""
    contract = model.contract
    height, width = (model.pixels.height, model.pixels.width) if model.pixels else (None, None)
    size = {"height": height or contract.height, "width": width or contract.width, "channels": contract.channels}
    return {
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
