"""Plain and re-ranked scores of one set of embeddings.

Shapes: Q queries, G gallery images (junk already dropped), D width of the embedding.
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from reid.embeddings import Embeddings
from reid.retrieval.camera_pairs import CameraScorer
from reid.retrieval.distance import l2_normalize
from reid.retrieval.metrics import Scorer, Scores
from reid.retrieval.nearest import Nearest, NearestFinder
from reid.retrieval.on_device import both_rows
from reid.retrieval.protocol import Protocol
from reid.retrieval.threshold import PairCounter
from reid.scoring.camera_pairs import MOST_CAMERAS, CameraPair, camera_pairs
from reid.scoring.confidence import Interval, share_interval
from reid.scoring.curves import Curve
from reid.scoring.matches import protocol_of

logger = logging.getLogger(__name__)

RANKS = (1, 5, 10)
"""The CMC ranks that have a metric of their own."""
SEED = 0
"""Seed of the draws of persons: the same scores have the same intervals."""


@dataclass(frozen=True)
class Ranking:
    """The scores of one order of the gallery, and its first places."""

    scores: Scores
    nearest: Nearest
    mAP: Interval  # noqa: N815 - the field's spelling
    """With the range for other persons."""
    rank1: Interval

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """mAP, mINP and rank-k as fractions, under their metric names, and the ranges of mAP and rank-1."""
        ranks = {f"{prefix}rank{rank}": float(self.scores.cmc[rank - 1]) for rank in RANKS}
        return {
            **{f"{prefix}mAP": float(self.scores.mAP), **ranks, f"{prefix}mINP": float(self.scores.mINP)},
            **self.mAP.metrics(f"{prefix}mAP"),
            **self.rank1.metrics(f"{prefix}rank1"),
        }

    def curve(self, kind: str, max_rank: int) -> Curve:
        """The figures for a plot, with the first max_rank CMC ranks."""
        cmc = self.scores.cmc[:max_rank]
        return Curve(kind, cmc, float(self.scores.mAP), float(self.scores.mINP), self.mAP, self.rank1)


@dataclass(frozen=True)
class Scored:
    """Both rankings of the same embeddings."""

    query: Embeddings
    gallery: Embeddings
    plain: Ranking
    reranked: Ranking
    rerank_seconds: float
    k1: int
    """The value that was used: not above the number of other images."""
    k2: int
    pairs_of_cameras: Sequence[CameraPair] = ()
    """The plain figures for each pair of cameras; empty if they were not asked for."""

    def ranking(self, kind: str) -> Ranking:
        """The ranking called "plain" or "reranked"."""
        return {"plain": self.plain, "reranked": self.reranked}[kind]


class _Ranker:
    """A Ranking from distances that come in blocks of queries."""

    def __init__(self, protocol: Protocol, *, ranks: int) -> None:
        self._person = protocol.query_person
        self._scorer, self._finder = Scorer(protocol, max_rank=ranks), NearestFinder(protocol, ranks=ranks)

    def add(self, first_query: int, distance: NDArray[np.float32]) -> None:
        self._scorer.add(first_query, distance)
        self._finder.add(first_query, distance)

    def ranking(self) -> Ranking:
        scores = self._scorer.scores()
        first = np.where(scores.first_match_rank > 0, scores.first_match_rank == 1, np.nan)
        intervals = (share_interval(value, self._person, seed=SEED) for value in (scores.average_precision, first))
        return Ranking(scores, self._finder.found, *intervals)


def score(
    query: Embeddings,
    gallery: Embeddings,
    *,
    k1: int,
    k2: int,
    lambda_value: float,
    max_rank: int,
    device: str,
    evaluate_device: str,
    pairs: PairCounter | None = None,
    by_camera: bool = False,
) -> Scored:
    """Squared Euclidean distances of the normalised embeddings, and those re-ranked (Zhong et al. 2017), both scored.

    The distances come in blocks, so that memory does not grow with Q x G; `pairs` counts the plain ones, and
    `by_camera` scores the plain ones of each pair of cameras too, unless there are very many cameras. They are
    computed on `device`; auto is `evaluate_device`, that of the embedding pass, if its memory suffices
    (reid.retrieval.on_device). Both rankings hold max_rank places, at least 10. An image has only Q + G - 1 other
    images for neighbours: a k1 above that is lowered to it, with a warning.
    """
    images = len(query) + len(gallery)
    if k1 > images - 1:
        logger.warning("re_ranking.k1 is %d, but there are %d images: %d neighbours are used", k1, images, images - 1)
        k1 = images - 1
    k2 = min(k2, k1)
    protocol = protocol_of(query, gallery)
    plain, reranked = (_Ranker(protocol, ranks=max(max_rank, *RANKS)) for _ in range(2))
    cameras = _camera_scorer(protocol) if by_camera else None
    vectors = np.empty((images, query.vectors.shape[1]), np.float32)
    l2_normalize(query.vectors, out=vectors[: len(query)])
    l2_normalize(gallery.vectors, out=vectors[len(query) :])
    started, scoring_seconds = time.perf_counter(), 0.0
    where = {"device": device, "evaluate_device": evaluate_device}
    blocks = both_rows(vectors, queries=len(query), k1=k1, k2=k2, lambda_value=lambda_value, **where)
    for first, distance, final in blocks:
        came = time.perf_counter()
        plain.add(first, distance)
        reranked.add(first, final)
        if pairs:
            pairs.add(first, distance)
        if cameras:
            cameras.add(first, distance)
        scoring_seconds += time.perf_counter() - came
    rerank_seconds = time.perf_counter() - started - scoring_seconds
    found = _pairs_of(cameras, query, gallery) if cameras else []
    return Scored(query, gallery, plain.ranking(), reranked.ranking(), rerank_seconds, k1, k2, found)


def _camera_scorer(protocol: Protocol) -> CameraScorer | None:
    """None, with a line in the log, if there are too many cameras for a table of pairs."""
    cameras = len(np.unique(protocol.gallery_camera))
    if cameras > MOST_CAMERAS:
        logger.info("%d cameras: there are no figures for each pair of more than %d", cameras, MOST_CAMERAS)
        return None
    return CameraScorer(protocol)


def _pairs_of(scorer: CameraScorer, query: Embeddings, gallery: Embeddings) -> list[CameraPair]:
    return camera_pairs(
        scorer,
        person=query.person,
        camera=query.camera,
        gallery_person=gallery.person,
        gallery_camera=gallery.camera,
    )
