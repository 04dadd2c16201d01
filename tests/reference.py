"""The papers' formulas of retrieval as slow loops over dense arrays; tests compare reid.retrieval with them.

Q queries, G gallery images, N = Q + G, D values a vector. Equal distances are ordered by index everywhere.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class ReferenceScores(NamedTuple):
    """The same fields as reid.retrieval.metrics.Scores."""

    mAP: float  # noqa: N815
    cmc: NDArray[np.float64]
    mINP: float  # noqa: N815
    average_precision: NDArray[np.float64]
    inverse_negative_penalty: NDArray[np.float64]
    first_match_rank: NDArray[np.int64]
    valid_queries: int


def squared_euclidean(query: NDArray, gallery: NDArray) -> NDArray[np.float64]:
    """query (Q, D), gallery (G, D) -> (Q, G), by differences in float64."""
    gallery = gallery.astype(np.float64)
    return np.array([((row.astype(np.float64) - gallery) ** 2).sum(axis=1) for row in query])


def ranking(
    distance_row: NDArray, *, person: int, camera: int, gallery_person: NDArray, gallery_camera: NDArray
) -> list[int]:
    """distance (G,) of one query -> gallery indices, nearest first, without what the protocol ignores.

    Zheng et al., ICCV 2015: junk, and images of the query's person from the query's camera.
    """
    return [
        int(index)
        for index in np.argsort(distance_row, kind="stable")
        if gallery_person[index] >= 0 and not (gallery_person[index] == person and gallery_camera[index] == camera)
    ]


def scores(
    distance: NDArray,
    *,
    query_person: NDArray,
    query_camera: NDArray,
    gallery_person: NDArray,
    gallery_camera: NDArray,
    max_rank: int,
) -> ReferenceScores:
    """distance (Q, G) -> CMC and mAP of Zheng et al., ICCV 2015, and mINP of Ye et al., TPAMI 2021."""
    queries = len(distance)
    average_precision, penalty = np.full(queries, np.nan), np.full(queries, np.nan)
    first = np.zeros(queries, np.int64)
    for query in range(queries):
        person = query_person[query]
        order = ranking(
            distance[query],
            person=person,
            camera=query_camera[query],
            gallery_person=gallery_person,
            gallery_camera=gallery_camera,
        )
        hits = [rank for rank, index in enumerate(order, start=1) if person > 0 and gallery_person[index] == person]
        if hits:
            average_precision[query] = sum(found / rank for found, rank in enumerate(hits, start=1)) / len(hits)
            penalty[query] = len(hits) / hits[-1]
            first[query] = hits[0]
    valid = first > 0
    return ReferenceScores(
        mAP=average_precision[valid].mean(),
        cmc=np.array([(first[valid] <= rank).mean() for rank in range(1, max_rank + 1)]),
        mINP=penalty[valid].mean(),
        average_precision=average_precision,
        inverse_negative_penalty=penalty,
        first_match_rank=first,
        valid_queries=int(valid.sum()),
    )


def match_rates(
    distance: NDArray,
    threshold: float,
    *,
    query_person: NDArray,
    query_camera: NDArray,
    gallery_person: NDArray,
    gallery_camera: NDArray,
) -> tuple[float, float]:
    """The shares of same-person and of different-person pairs within the threshold."""
    same = query_person[:, None] == gallery_person[None, :]
    counts = (gallery_person >= 0)[None, :] & (query_person > 0)[:, None]
    counts &= ~(same & (query_camera[:, None] == gallery_camera[None, :]))
    accepted = distance <= threshold
    return float(accepted[counts & same].mean()), float(accepted[counts & ~same].mean())


def k_reciprocal_distance(
    distance: NDArray, queries: int, *, k1: int, k2: int, lambda_value: float
) -> NDArray[np.floating]:
    """distance (N, N), squared Euclidean, queries first -> (Q, G): Zhong et al., CVPR 2017, arXiv:1701.08398.

    Dense, in the number type of `distance`, following the steps of the authors' code.
    """
    total = len(distance)
    original = (distance / distance.max(axis=0)).T  # row i over the greatest distance from i
    order = np.argsort(original, axis=1, kind="stable")
    encoding = np.zeros_like(original)
    for image in range(total):
        full = _reciprocal(order, image, k1 + 1)
        expanded = full
        for candidate in full:
            half = _reciprocal(order, candidate, int(np.around(k1 / 2)) + 1)
            if len(np.intersect1d(half, full)) > 2 / 3 * len(half):
                expanded = np.append(expanded, half)
        expanded = np.unique(expanded)
        weight = np.exp(-original[image, expanded])
        encoding[image, expanded] = weight / weight.sum()
    if k2 != 1:
        encoding = np.array([encoding[order[image, :k2]].mean(axis=0) for image in range(total)])
    columns = [np.flatnonzero(encoding[:, image]) for image in range(total)]
    jaccard = np.zeros_like(original[:queries])
    for query in range(queries):
        smaller = np.zeros(total, original.dtype)
        for image in np.flatnonzero(encoding[query]):
            rows = columns[image]
            smaller[rows] += np.minimum(encoding[query, image], encoding[rows, image])
        jaccard[query] = 1 - smaller / (2 - smaller)
    final = jaccard * (1 - lambda_value) + original[:queries] * lambda_value
    return final[:, queries:]


def _reciprocal(order: NDArray, image: int, count: int) -> NDArray:
    """R(image, count): the images among its first `count` neighbours that have it among theirs."""
    forward = order[image, :count]
    backward = order[forward, :count]
    return forward[np.where(backward == image)[0]]
