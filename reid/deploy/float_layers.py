"""Finds the layers that must stay in float32 so that a quantised network keeps its embeddings, by measurement.

First all layers are quantised. If the embeddings of images that no scale was measured on stay close enough, nothing
else is done. Otherwise each layer is quantised alone, which says how much it costs, and the costliest layers are
kept in float32, more and more of them, until the embeddings are close enough or as many are kept as is allowed.
"""

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from reid.console.progress import Progress
from reid.deploy.calibration import BATCH_SIZE, largest_values
from reid.deploy.onnx import INPUT, open_session
from reid.deploy.parity import Parity, parity
from reid.deploy.quantization import layers_of, quantized_tensors, require_opset, with_pairs

if TYPE_CHECKING:
    from onnx import ModelProto

logger = logging.getLogger(__name__)

IMAGES_FOR_EACH_LAYER = 16
"""Images on which a layer is quantised alone; it bounds the time of the search."""


@dataclass(frozen=True)
class Quantized:
    """A quantised model, and how it was made."""

    model: "ModelProto"
    images: int
    """Images on which the scales were measured."""
    held_aside: int
    """Other images, on which the layers to keep were chosen."""
    worst_cosine: float
    """The smallest cosine between its embedding of an image held aside and the float32 network's."""
    layers: int
    kept: tuple[str, ...]
    """The layers in float32, the costliest first; those that the caller named come last."""
    cost: Mapping[str, float] = field(default_factory=dict)
    """Layer -> 1 less the mean cosine if it alone is quantised; empty if no layer had to be kept."""


def quantize_with_search(
    model: "ModelProto",
    calibration: Sequence[NDArray[np.float32]],
    held_aside: Sequence[NDArray[np.float32]],
    *,
    data_type: str,
    min_cosine: float,
    max_kept: int,
    keep: Collection[str] = (),
) -> Quantized:
    """The FP32 model in `data_type`, with as few layers in float32 as give `min_cosine` on the images held aside.

    calibration, held_aside: batches of preprocessed images (B, C, H, W). At most `max_kept` layers besides those in
    `keep` stay in float32; if they are not enough, the best model found is returned.
    """
    require_opset(model, data_type)
    images = sum(map(len, calibration))
    largest = largest_values(model, quantized_tensors(model), calibration, total=images)
    search = _Search(model, held_aside, largest=largest, data_type=data_type)
    names = [layer.name for layer in layers_of(model)]
    kept: list[str] = list(keep)
    best, cost = search.try_without(kept), {}
    if best.worst_cosine < min_cosine and max_kept:
        cost = search.costs([name for name in names if name not in keep])
        best, kept = search.keep_more(cost, best, keep=keep, min_cosine=min_cosine, max_kept=max_kept)
    return Quantized(
        with_pairs(model, largest, keep=kept, data_type=data_type),
        images=images,
        held_aside=sum(map(len, held_aside)),
        worst_cosine=best.worst_cosine,
        layers=len(set(names)),
        kept=tuple(kept),
        cost=cost,
    )


class _Search:
    """Quantised copies of one model, compared with it on the same images."""

    def __init__(
        self,
        model: "ModelProto",
        images: Sequence[NDArray[np.float32]],
        *,
        largest: Mapping[str, float],
        data_type: str,
    ) -> None:
        self.model, self.images, self.largest, self.data_type = model, images, largest, data_type
        self.reference = self._embed(model, images)

    def try_without(self, keep: Collection[str]) -> Parity:
        """How close the embeddings are if all layers but those in `keep` are quantised."""
        return parity(self.reference, self._embed(self._quantized(keep), self.images))

    def costs(self, names: Sequence[str]) -> dict[str, float]:
        """1 less the mean cosine if one layer alone is quantised, for each layer; the costliest first."""
        few = [self.images[at] for at in range(min(len(self.images), -(-IMAGES_FOR_EACH_LAYER // BATCH_SIZE)))]
        reference = self.reference[: sum(map(len, few))]
        every = {layer.name for layer in layers_of(self.model)}
        found = {}
        with Progress("layers quantised alone", len(names), "layers") as progress:
            for number, name in enumerate(names):
                alone = parity(reference, self._embed(self._quantized(every - {name}), few))
                found[name] = 1 - alone.mean_cosine
                progress.update(number + 1)
        return dict(sorted(found.items(), key=lambda entry: -entry[1]))

    def keep_more(
        self, cost: Mapping[str, float], best: Parity, *, keep: Collection[str], min_cosine: float, max_kept: int
    ) -> tuple[Parity, list[str]]:
        """The closest embeddings that were found, and the layers kept for them."""
        chosen = list(keep)
        for count in _counts(min(max_kept, len(cost))):
            tried = [*list(cost)[:count], *keep]
            found = self.try_without(tried)
            logger.info("%d layers in float32: cosine at least %.6f", len(tried), found.worst_cosine)
            if found.worst_cosine > best.worst_cosine:
                best, chosen = found, tried
            if best.worst_cosine >= min_cosine:
                break
        return best, chosen

    def _quantized(self, keep: Collection[str]) -> "ModelProto":
        return with_pairs(self.model, self.largest, keep=keep, data_type=self.data_type)

    def _embed(self, model: "ModelProto", images: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
        session = open_session(model.SerializeToString())
        return np.concatenate([session.run(None, {INPUT: batch})[0] for batch in images])


def _counts(most: int) -> list[int]:
    """How many layers to keep: 1, 2, 3, 4, 6, 8, 12 and so on, each a half or a third more than the one before."""
    counts = sorted({2**power for power in range(most.bit_length())} | {3 * 2**power for power in range(1, 30)} | {3})
    return [count for count in counts if count < most] + ([most] if most else [])
