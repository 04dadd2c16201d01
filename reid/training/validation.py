"""Validation during training: one embedding pass over query and gallery, and its figures.

The figures are computed on the training's device. A GPU gives the CPU's figures unless two distances are equal within
float32's rounding (see reid.retrieval.tensors.scoring), and a val_loss that is equal within about 1e-4.

Shapes: N images, Q queries, G gallery images, D width of the embedding.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from reid.contract import Contract
from reid.data.market1501 import JUNK, Split
from reid.data.picked import DecodedImages
from reid.distributed.ranks import Ranks
from reid.embeddings import Embeddings, Network, OfPixels, embed
from reid.retrieval.distance import distance_rows, l2_normalize
from reid.retrieval.metrics import Scorer, Scores
from reid.retrieval.protocol import Protocol
from reid.retrieval.tensors.exactness import float32_products
from reid.retrieval.tensors.scoring import scores as scores_of_tensors
from reid.retrieval.tensors.scoring import unit_length
from reid.retrieval.threshold import PairCounter
from reid.scoring.matches import protocol_of
from reid.scoring.verification import have_two_persons, thresholds_of

logger = logging.getLogger(__name__)

CPU = torch.device("cpu")
MAX_RANK = 10
BLOCK_ROWS = 1024


@dataclass(frozen=True)
class Validation:
    """Query and gallery images, decoded; their persons are never trained on."""

    query: Split
    gallery: Split
    """The gallery, junk included; junk is never embedded."""
    query_pixels: DecodedImages
    """(Q, H, W, C)."""
    gallery_pixels: DecodedImages
    """(G, H, W, C)."""
    contract: Contract
    batch_size: int
    triplet_loss_margin: float
    unit_triplet: bool
    """Whether val_loss compares embeddings of length 1."""
    in_words: str = ""
    """The images in words, for the thresholds that are measured on them."""

    def embed(
        self, network: Network | OfPixels, *, what: str, ranks: Ranks, between: Callable[[], None]
    ) -> tuple[Embeddings, Embeddings]:
        """The embeddings of the queries and of the gallery without junk, complete on rank 0; see reid.embeddings."""
        query, gallery = (
            embed(
                split,
                pixels,
                network,
                contract=self.contract,
                batch_size=self.batch_size,
                what=f"{what}, {name}",
                keep=split.person != JUNK,
                ranks=ranks,
                between=between,
            )
            for split, pixels, name in (
                (self.query, self.query_pixels, "query"),
                (self.gallery, self.gallery_pixels, "gallery"),
            )
        )
        return query, gallery

    def size(self) -> dict[str, int]:
        """validation_persons and validation_images, as a row of the history names them."""
        files = {image.file for split in (self.query, self.gallery) for image in split.images}
        return {"validation_persons": len(np.unique(self.gallery.person)), "validation_images": len(files)}

    def figures(
        self,
        query: Embeddings,
        gallery: Embeddings,
        *,
        device: torch.device = CPU,
        pairs: PairCounter | None = None,
    ) -> dict[str, float]:
        """mAP, rank1, rank5, rank10 and mINP of the plain ranking, as fractions, and val_loss.

        `pairs` counts the same distances. If the memory of a GPU does not suffice, they are computed on the CPU.
        """
        protocol = protocol_of(query, gallery)
        options: dict[str, Any] = {"unit_triplet": self.unit_triplet, "pairs": pairs}
        options["margin"] = self.triplet_loss_margin
        try:
            compute = scores_on_cpu if device == CPU else partial(scores_by_torch, device=device)
            scores, loss = compute(query, gallery, protocol, **options)
        except torch.OutOfMemoryError as error:
            why = str(error).splitlines()[0]
            logger.warning("validation: the memory of %s does not suffice (%s); on the CPU instead", device, why)
            if pairs:
                pairs.forget()
            scores, loss = scores_on_cpu(query, gallery, protocol, **options)
        ranks = {f"rank{rank}": float(scores.cmc[min(rank, len(scores.cmc)) - 1]) for rank in (1, 5, 10)}
        return {"mAP": float(scores.mAP), **ranks, "mINP": float(scores.mINP), "val_loss": loss}

    def thresholds(self, pairs: PairCounter) -> str:
        """The thresholds by the pairs that `figures` counted, as one line of JSON; see reid.thresholds."""
        return thresholds_of(pairs.verification(), measured_on=self.in_words).to_json()


def pair_counter(query: Embeddings, gallery: Embeddings) -> PairCounter | None:
    """The counter of pairs for `figures`; None, without a word, if no threshold can be judged."""
    return PairCounter(protocol_of(query, gallery), low=0, high=4) if have_two_persons(query, gallery) else None


def scores_on_cpu(
    query: Embeddings,
    gallery: Embeddings,
    protocol: Protocol,
    *,
    margin: float,
    unit_triplet: bool = False,
    pairs: PairCounter | None = None,
) -> tuple[Scores, float]:
    """The scores of the plain ranking, and the validation loss, with `unit_triplet` of embeddings of length 1.

    `pairs` counts the distances that are scored.
    """
    scorer = Scorer(protocol, max_rank=MAX_RANK)
    for first, distance in distance_rows(l2_normalize(query.vectors), l2_normalize(gallery.vectors)):
        scorer.add(first, distance)
        if pairs:
            pairs.add(first, distance)
    return scorer.scores(), validation_triplet(query, gallery, margin=margin, unit_triplet=unit_triplet)


def scores_by_torch(
    query: Embeddings,
    gallery: Embeddings,
    protocol: Protocol,
    *,
    margin: float,
    device: torch.device,
    unit_triplet: bool = False,
    pairs: PairCounter | None = None,
) -> tuple[Scores, float]:
    """The same on a device; raises torch.OutOfMemoryError if its memory does not suffice."""
    vectors, person = _joined(query, gallery, device)
    unit = unit_length(vectors)
    scores = scores_of_tensors(unit[: len(query)], unit[len(query) :], protocol, max_rank=MAX_RANK, pairs=pairs)
    with float32_products(device):
        loss = _triplet(unit if unit_triplet else vectors, person, len(query), margin=margin)
    return scores, loss


def validation_triplet(query: Embeddings, gallery: Embeddings, *, margin: float, unit_triplet: bool = False) -> float:
    """The batch-hard triplet loss with every query as an anchor and all images as its batch; 0 if there is none.

    Hermans et al. 2017, eq. 5. Distractors (person 0) are negatives of everybody. In blocks of anchors, so that no
    (Q, Q + G) matrix is held.
    """
    vectors, person = _joined(query, gallery, CPU)
    return _triplet(unit_length(vectors) if unit_triplet else vectors, person, len(query), margin=margin)


def _joined(query: Embeddings, gallery: Embeddings, device: torch.device) -> tuple[Tensor, Tensor]:
    """Vectors (Q + G, D) and persons (Q + G,) on a device."""
    vectors = torch.from_numpy(np.concatenate([query.vectors, gallery.vectors]))
    return vectors.to(device), torch.from_numpy(np.concatenate([query.person, gallery.person])).to(device)


def _triplet(vectors: Tensor, person: Tensor, queries: int, *, margin: float) -> float:
    hinges = [
        _hinges(vectors, person, slice(start, min(start + BLOCK_ROWS, queries)), margin=margin)
        for start in range(0, queries, BLOCK_ROWS)
    ]
    hinge = torch.cat(hinges) if hinges else torch.zeros(0)
    return float(hinge.mean()) if len(hinge) else 0.0


def _hinges(vectors: Tensor, person: Tensor, anchors: slice, *, margin: float) -> Tensor:
    """The hinges of the anchors that have a positive and a negative."""
    distance = torch.cdist(vectors[anchors], vectors, compute_mode="use_mm_for_euclid_dist")
    same = person[anchors, None] == person[None, :]
    negative = distance.masked_fill(same, torch.inf).amin(dim=1)
    same[torch.arange(len(same)), torch.arange(anchors.start, anchors.stop)] = False  # the anchor itself
    positive = distance.masked_fill(~same, -torch.inf).amax(dim=1)
    hinge = torch.relu(positive - negative + margin)
    return hinge[positive.isfinite() & negative.isfinite()]
