"""CMC, mAP and mINP of distances on a device: only each query's figures leave it. Q queries, G gallery images.

The ranks of the matches are counted, never sorted, as in reid.retrieval.metrics; the results are equal.
"""

import numpy as np
import torch
from torch import Tensor

from reid.retrieval.metrics import PerQuery, Scorer, Scores
from reid.retrieval.parallel import row_ranges
from reid.retrieval.protocol import Integers, Protocol, market_protocol
from reid.retrieval.tensors import exactness


def evaluate(
    distance: Tensor,
    *,
    query_person: Integers,
    query_camera: Integers,
    gallery_person: Integers,
    gallery_camera: Integers,
    max_rank: int,
) -> Scores:
    """distance (Q, G) on any device, persons and cameras (Q,) and (G,) -> Scores, as retrieval.metrics.evaluate."""
    protocol = market_protocol(
        query_person=query_person,
        query_camera=query_camera,
        gallery_person=gallery_person,
        gallery_camera=gallery_camera,
    )
    scorer = Scorer(protocol, max_rank=max_rank)
    add_rows(scorer, 0, distance)
    return scorer.scores()


def add_rows(scorer: Scorer, first_query: int, distance: Tensor) -> None:
    """`scorer.add` for distance (rows, G) on a device."""
    protocol = scorer.protocol.of_block(distance.shape, first_query)
    size = max(1, exactness.BLOCK_BYTES // (4 * distance.shape[1]))
    for first, end in row_ranges(len(distance), size=size):
        part = protocol.of_block((end - first, distance.shape[1]), first)
        scorer.put(first_query + first, _figures(distance[first:end].float(), part))


def _figures(distance: Tensor, protocol: Protocol) -> PerQuery:
    """Of the queries of one block."""
    rows, device = len(distance), distance.device
    finite = distance.isfinite().all(dim=1)
    query, image, other_camera = _own_person(protocol)
    ignored = torch.from_numpy(np.stack([query, image])[:, ~other_camera]).to(device)
    matches = torch.from_numpy(np.stack([query, image])[:, other_camera]).to(device)
    distance = distance.clone()
    distance[:, torch.from_numpy(protocol.junk).to(device)] = torch.inf
    distance[ignored[0], ignored[1]] = torch.inf
    rank = _ranks(distance, *matches)
    # by query, then by rank: a match's place in its group is the number of matches up to it
    order = (matches[0] * (distance.shape[1] + 1) + rank).argsort()
    query_of, ranks = matches[0][order].cpu().numpy(), rank[order].cpu().numpy()
    found = np.bincount(query_of, minlength=rows)
    begin = np.cumsum(found) - found
    hits = np.arange(len(ranks)) - begin[query_of] + 1
    precision = np.bincount(query_of, weights=hits / ranks, minlength=rows)
    some = found > 0
    average_precision, penalty, first = np.full(rows, np.nan), np.full(rows, np.nan), np.zeros(rows, np.int64)
    average_precision[some] = precision[some] / found[some]
    penalty[some] = found[some] / ranks[begin[some] + found[some] - 1]
    first[some] = ranks[begin[some]]
    return PerQuery(average_precision, penalty, first, finite.cpu().numpy())


def _own_person(protocol: Protocol) -> tuple[Integers, Integers, np.ndarray]:
    """Every gallery image of a query's person: (query, image, whether from another camera), three arrays."""
    sizes = protocol.end - protocol.begin
    query = np.repeat(np.arange(len(sizes)), sizes)
    skip = protocol.begin - (np.cumsum(sizes) - sizes)
    image = protocol.by_person[np.arange(len(query)) + skip[query]]
    return query, image, protocol.gallery_camera[image] != protocol.query_camera[query]


def _ranks(distance: Tensor, query: Tensor, image: Tensor) -> Tensor:
    """The rank, from 1, of each match: one more than those that are nearer, or as near with a lower index."""
    rank = torch.empty_like(query)
    place = torch.arange(distance.shape[1], device=distance.device)
    for first, end in row_ranges(len(query), size=max(1, exactness.BLOCK_BYTES // (8 * distance.shape[1]))):
        row = distance[query[first:end]]
        value = row.gather(1, image[first:end, None])
        nearer = (row < value) | ((row == value) & (place < image[first:end, None]))
        rank[first:end] = nearer.sum(dim=1) + 1
    return rank
