"""Plain and re-ranked scores of one set of embeddings.

Shapes: Q queries, G gallery images (junk already dropped), D width of the embedding, R ranks.
"""

import csv
import io
import logging
import time
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from reid.data.market1501 import DISTRACTOR, Split
from reid.embeddings import Embeddings
from reid.retrieval.distance import l2_normalize
from reid.retrieval.metrics import Scorer, Scores
from reid.retrieval.nearest import Nearest, NearestFinder
from reid.retrieval.on_device import both_rows
from reid.retrieval.protocol import Protocol, market_protocol
from reid.retrieval.threshold import PairCounter, Verification

logger = logging.getLogger(__name__)

RANKS = (1, 5, 10)
"""Of the CMC, those that are metrics of their own."""
KINDS = {
    "reranked": "trained, re-ranked",
    "plain": "trained, plain",
    "untrained_reranked": "untrained, re-ranked",
    "untrained": "untrained, plain",
}
"""Kind of ranking -> what a person calls it."""
HISTOGRAM_BINS = 80


@dataclass(frozen=True)
class Curve:
    """The figures of one ranking."""

    kind: str
    """A key of KINDS."""
    cmc: NDArray[np.float64]
    """(R,): share of queries with a right image among the first rank."""
    mAP: float  # noqa: N815
    mINP: float  # noqa: N815

    @property
    def name(self) -> str:
        """What a person calls it."""
        return KINDS[self.kind]

    @property
    def rank1(self) -> float:
        """Share of queries whose nearest image is right."""
        return float(self.cmc[0])


@dataclass(frozen=True)
class PairHistogram:
    """How many genuine (same person, other camera) and impostor pairs lie at which distance."""

    edges: NDArray[np.float64]
    """(bins + 1,)."""
    genuine: NDArray[np.int64]
    """(bins,)."""
    impostor: NDArray[np.int64]
    """(bins,)."""


@dataclass(frozen=True)
class Ranking:
    """How good an order of the gallery is, and the top of it."""

    scores: Scores
    nearest: Nearest

    def metrics(self, prefix: str = "") -> dict[str, float]:
        """mAP, mINP and rank-k as fractions, under their metric names."""
        ranks = {f"{prefix}rank{rank}": float(self.scores.cmc[rank - 1]) for rank in RANKS}
        return {f"{prefix}mAP": float(self.scores.mAP), **ranks, f"{prefix}mINP": float(self.scores.mINP)}

    def curve(self, kind: str, max_rank: int) -> Curve:
        """The figures for a plot."""
        return Curve(kind, self.scores.cmc[:max_rank], float(self.scores.mAP), float(self.scores.mINP))


@dataclass(frozen=True)
class Scored:
    """Both rankings of the same embeddings."""

    query: Embeddings
    gallery: Embeddings
    plain: Ranking
    reranked: Ranking
    rerank_seconds: float
    k1: int
    """As used: not above the number of other images."""
    k2: int

    def ranking(self, kind: str) -> Ranking:
        """The ranking called "plain" or "reranked"."""
        return {"plain": self.plain, "reranked": self.reranked}[kind]


class RocRow(NamedTuple):
    """One point of a receiver operating curve."""

    cosine: float
    """Pairs at least this similar are accepted."""
    true_match_rate: float
    false_match_rate: float


@dataclass(frozen=True)
class ThresholdRow:
    """What happens if pairs up to a distance are called the same person."""

    name: str
    distance: float
    true_match_rate: float
    """Share of genuine pairs accepted."""
    false_match_rate: float
    """Share of impostor pairs accepted."""
    precision: float
    """Share of accepted pairs that are genuine."""


class _Ranker:
    """A Ranking from distances that come in blocks of queries."""

    def __init__(self, protocol: Protocol, *, ranks: int) -> None:
        self._scorer, self._finder = Scorer(protocol, max_rank=ranks), NearestFinder(protocol, ranks=ranks)

    def add(self, first_query: int, distance: NDArray[np.float32]) -> None:
        self._scorer.add(first_query, distance)
        self._finder.add(first_query, distance)

    def ranking(self) -> Ranking:
        return Ranking(self._scorer.scores(), self._finder.found)


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
) -> Scored:
    """Squared Euclidean distances of the normalised embeddings, and those re-ranked (Zhong et al. 2017), both scored.

    The distances come in blocks, so that memory does not grow with Q x G; `pairs` counts the plain ones. They are
    computed on `device`; auto is `evaluate_device`, that of the embedding pass, if it has room
    (reid.retrieval.on_device). Both rankings hold max_rank
    ranks, at least 10. k1 neighbours can only be had among Q + G - 1 other images: above that it is lowered to it, with
    a warning.
    """
    images = len(query) + len(gallery)
    if k1 > images - 1:
        logger.warning("re_ranking.k1 is %d, but there are %d images: %d neighbours are used", k1, images, images - 1)
        k1 = images - 1
    k2 = min(k2, k1)
    protocol = _who(query, gallery)
    plain, reranked = (_Ranker(protocol, ranks=max(max_rank, *RANKS)) for _ in range(2))
    vectors = np.empty((images, query.vectors.shape[1]), np.float32)
    l2_normalize(query.vectors, out=vectors[: len(query)])
    l2_normalize(gallery.vectors, out=vectors[len(query) :])
    started, scoring_seconds = time.perf_counter(), 0.0
    blocks = both_rows(
        vectors,
        queries=len(query),
        k1=k1,
        k2=k2,
        lambda_value=lambda_value,
        device=device,
        evaluate_device=evaluate_device,
    )
    for first, distance, final in blocks:
        came = time.perf_counter()
        plain.add(first, distance)
        reranked.add(first, final)
        if pairs:
            pairs.add(first, distance)
        scoring_seconds += time.perf_counter() - came
    rerank_seconds = time.perf_counter() - started - scoring_seconds
    return Scored(query, gallery, plain.ranking(), reranked.ranking(), rerank_seconds, k1, k2)


def _who(query: Embeddings, gallery: Embeddings) -> Protocol:
    """Who is a match for which query."""
    return market_protocol(
        query_person=query.person,
        query_camera=query.camera,
        gallery_person=gallery.person,
        gallery_camera=gallery.camera,
    )


def has_match(query: Split, gallery: Split) -> NDArray[np.bool_]:
    """(Q,) whether the gallery holds the query's person in another camera."""
    cameras: dict[int, set[int]] = {}
    for image in gallery.without_junk().images:
        cameras.setdefault(image.person, set()).add(image.camera)
    cameras.pop(DISTRACTOR, None)  # nobody is no match for nobody
    return np.array([bool(cameras.get(image.person, set()) - {image.camera}) for image in query.images], bool)


def advice_without_match(query: Split, gallery: Split) -> str:
    """The last line of an error that no query has a match: a field of the spec, where cameras are the cause."""
    if not set(query.of_persons().person.tolist()) & set(gallery.person.tolist()):
        return ""
    return "\n  where there is one camera only, or cameras are unknown: dataset.cameras=none"


def pair_counter(query: Embeddings, gallery: Embeddings) -> PairCounter | None:
    """What `score` can count pairs with; None, with a warning, where there are no pairs of two persons."""
    known, facing = np.unique(query.person[query.person > 0]), gallery.person[gallery.person >= 0]
    if not known.size or len(np.union1d(known, facing)) == 1:
        logger.warning("no query of a known person faces an image of another one; no distance can be judged")
        return None
    return PairCounter(_who(query, gallery), low=0, high=4)


def pair_histogram(found: Verification) -> PairHistogram:
    """The pairs of one person, and of two, in 80 equal steps of distance."""
    edges = np.linspace(0, max(float(found.thresholds[-1]), 1e-6), HISTOGRAM_BINS + 1)

    def counts(accepted_share: NDArray[np.float64], pairs: int) -> NDArray[np.int64]:
        added = np.diff(accepted_share) * pairs  # at each threshold beyond the first, which accepts nothing
        counted = np.histogram(found.thresholds[1:], edges, weights=added)[0]
        return np.asarray(np.rint(counted), np.int64)

    return PairHistogram(
        edges,
        counts(found.true_match_rate, found.same_person_pairs),
        counts(found.false_match_rate, found.different_person_pairs),
    )


def roc_rows(found: Verification, *, points: int) -> list[RocRow]:
    """The receiver operating curve in at most `points` points, evenly spaced along its length, both ends included."""
    steps = np.hypot(np.diff(found.false_match_rate), np.diff(found.true_match_rate))
    length = np.concatenate([[0.0], steps.cumsum()])
    chosen = np.unique(np.searchsorted(length, np.linspace(0, length[-1], points - 1)))
    last = len(length) - 1
    return [
        RocRow(1 - float(found.thresholds[at]) / 2, float(found.true_match_rate[at]), float(found.false_match_rate[at]))
        for at in dict.fromkeys([*chosen.tolist(), last])
    ]


def threshold_rows(found: Verification) -> list[ThresholdRow]:
    """The thresholds worth knowing; a false match rate is left out where it is less than one pair."""
    wanted = [("best F1", found.best_f1_threshold), ("equal error", found.equal_error_threshold)]
    wanted += [
        (f"{100 * rate:g} % let in", point.threshold)
        for rate, point in found.at_false_match_rate.items()
        if rate * found.different_person_pairs >= 1
    ]
    rows = []
    for name, threshold in wanted:
        at = int(np.searchsorted(found.thresholds, threshold, side="right")) - 1
        right = found.true_match_rate[at] * found.same_person_pairs
        wrong = found.false_match_rate[at] * found.different_person_pairs
        precision = float(right / (right + wrong)) if right + wrong else 1.0
        rates = float(found.true_match_rate[at]), float(found.false_match_rate[at])
        rows.append(ThresholdRow(name, threshold, *rates, precision))
    return rows


def per_query_csv(scored: Scored) -> str:
    """One line a query: average precision, rank of the first right image and the nearest image, in both rankings.

    Cells of a query that no gallery image can match are empty.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    ours = ["average_precision", "first_match_rank", "top1", "top1_person", "top1_distance"]
    kinds = ("plain", "reranked")
    writer.writerow(["query", "person", "camera", *(f"{kind}_{name}" for kind in kinds for name in ours)])
    columns = [_per_query_columns(scored, kind) for kind in kinds]
    for row, path in enumerate(scored.query.paths):
        cells = [cell for column in columns for cell in column[row]]
        writer.writerow([path, int(scored.query.person[row]), int(scored.query.camera[row]), *cells])
    return text.getvalue()


def _per_query_columns(scored: Scored, kind: str) -> list[list[str]]:
    """(Q) rows of five cells."""
    scores, nearest = scored.ranking(kind).scores, scored.ranking(kind).nearest
    rows = []
    for query, image in enumerate(nearest.image[:, 0].tolist()):
        precision, first = scores.average_precision[query], int(scores.first_match_rank[query])
        result = [f"{precision:.6f}", str(first)] if first else ["", ""]
        distance = f"{nearest.distance[query, 0]:.6f}"
        top = [scored.gallery.paths[image], str(scored.gallery.person[image]), distance]
        rows.append(result + (top if image >= 0 else ["", "", ""]))
    return rows
