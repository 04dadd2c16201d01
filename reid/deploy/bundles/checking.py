"""Measures what a program's own preprocessing costs: its input for real crops, run through the file that it runs.

Shapes: h, w a crop's size, C channels, H, W the size of a model's input, D width of the embedding.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.data.image_file import read_picture
from reid.data.market1501 import Split
from reid.deploy.bundles.resampling import Crop
from reid.deploy.comparison import Embedded, compare_embedded
from reid.deploy.onnx import open_session
from reid.embeddings import Embeddings

BATCH_SIZE = 16
OWN_SIZE = "--oversize 1"
"""In the name of the case that runs the model at the network's own size."""
Prepare = Callable[[Crop], NDArray[Any]]
"""A crop (h, w, 3), RGB -> what the program feeds: (C, H, W), or (h, w, C) if the model resizes."""


@dataclass(frozen=True)
class Cost:
    """What a way of running a model does to its embeddings, beside this project's own preparation of the same crops."""

    name: str
    worst_cosine: float
    mean_cosine: float
    mAP_change: float | None  # noqa: N815
    """None if no query has a match."""
    rank1_change: float | None


def embed_crops(model: bytes, prepare: Prepare, crops: Sequence[Split], *, what: str) -> Embedded:
    """The embeddings of query and gallery by plain ONNX Runtime; `what` names the work in progress lines."""
    session = open_session(model)
    name = session.get_inputs()[0].name
    done, parts = 0, []
    with Progress(what, total=sum(len(split) for split in crops)) as progress:
        for split in crops:
            vectors: list[NDArray[np.float32]] = []
            for start in range(0, len(split), BATCH_SIZE):
                inputs = [prepare(crop_of(path)) for path in split.paths[start : start + BATCH_SIZE]]
                vectors += [session.run(None, {name: batch})[0] for batch in _batches(inputs)]
                progress.update(done := done + len(inputs))
            rows = np.concatenate(vectors) if vectors else np.empty((0, 1), np.float32)
            parts.append(Embeddings([str(path) for path in split.paths], split.person, split.camera, rows))
    query, gallery = parts
    return query, gallery


def crop_of(path: Any) -> Crop:
    """The pixels (h, w, 3) of an image file, RGB; raises UnreadableImage."""
    return np.asarray(read_picture(path))


def _batches(inputs: Sequence[NDArray[Any]]) -> Iterator[NDArray[Any]]:
    """Neighbours of one shape together."""
    for _, group in groupby(inputs, key=lambda array: array.shape):
        yield np.stack(list(group))


def cost(name: str, reference: Embedded, found: Embedded) -> Cost:
    """How far `found` is from the embeddings of the crops as this project prepares them."""
    comparison = compare_embedded(reference, found)
    changes = (0.0 - comparison.drops.mAP, 0.0 - comparison.drops.rank1) if comparison.reference else (None, None)
    return Cost(name, comparison.parity.worst_cosine, comparison.parity.mean_cosine, *changes)


def smaller_is_closer(costs: Sequence[Cost]) -> list[str]:
    """The line that says so if the model at the network's own size comes closer than the bundle's, on these crops.

    The costs before it are those of the bundle's file, on the same images.
    """
    place = next((place for place, entry in enumerate(costs) if OWN_SIZE in entry.name), None)
    if not place:
        return []
    bundled, own = costs[place - 1], costs[place]
    if own.mean_cosine <= bundled.mean_cosine:
        return []
    return [
        f"on these crops {OWN_SIZE} is closer: mean cosine {own.mean_cosine:.4f}, as bundled {bundled.mean_cosine:.4f}"
    ]


def table(costs: Sequence[Cost]) -> list[str]:
    """The lines that show the costs."""
    lines = ["worst cosine   mean    mAP  rank-1"]
    for entry in costs:
        both = (entry.mAP_change, entry.rank1_change)
        changes = [f"{100 * change:+6.2f}" if change is not None else "     -" for change in both]
        lines.append(f"{entry.worst_cosine:12.4f} {entry.mean_cosine:.4f} {' '.join(changes)}  {entry.name}")
    return lines
