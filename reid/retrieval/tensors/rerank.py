"""Re-ranking with k-reciprocal encoding on the device of the embeddings. Zhong et al., CVPR 2017, arXiv:1701.08398.

The same functions as reid.retrieval.rerank, for torch tensors, in memory bounded alike: beside the embeddings and the
sparse encodings only blocks of exactness.BLOCK_BYTES, and the (Q, G) output where that is asked for.
Q queries, G gallery images, N = Q + G, D values a vector.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from reid.progress import Progress
from reid.retrieval.knn import SPARE
from reid.retrieval.parallel import row_ranges
from reid.retrieval.rerank import check_arguments
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import float32_products
from reid.retrieval.tensors.jaccard import Encoded, blend, encode, expand, invert
from reid.retrieval.tensors.knn import nearest_neighbours

logger = logging.getLogger(__name__)

BLOCKS_AT_ONCE = 6
"""Temporary tensors of BLOCK_BYTES that live together."""


def rerank(query: Tensor, gallery: Tensor, *, k1: int, k2: int, lambda_value: float) -> Tensor:
    """query (Q, D), gallery (G, D), rows of length 1 -> (Q, G) float32 on their device, as reid.retrieval.rerank.

    Equal to it within float32's rounding: the same neighbours, ties by index. Raises ValueError as it does.
    """
    distance = torch.empty(len(query), len(gallery), device=query.device)
    for first, block in rerank_rows(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value):
        distance[first : first + len(block)] = block
    return distance


def rerank_rows(
    query: Tensor, gallery: Tensor, *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, Tensor]]:
    """The rows of `rerank` in blocks: (first query, (rows, G) float32), for galleries whose (Q, G) does not fit."""
    for first, _, distance in both_rows(query, gallery, k1=k1, k2=k2, lambda_value=lambda_value):
        yield first, distance


def both_rows(
    query: Tensor, gallery: Tensor, *, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """The rows of squared Euclidean distances and those of `rerank` in blocks, of one product.

    A block is (first query, (rows, G), (rows, G)), float32; as reid.retrieval.rerank.both_rows.
    """
    check_arguments(query.shape, gallery.shape, k1=k1, k2=k2, lambda_value=lambda_value)
    query, gallery = query.detach().float(), gallery.detach().float()
    with float32_products(query.device):
        encoded = _encode(query, gallery, k1=k1, k2=k2)
    size = max(1, exactness.BLOCK_BYTES // (4 * len(gallery)))
    with Progress("re-ranked distances", len(query), "queries") as progress:
        for first, end in row_ranges(len(query), size=size):
            with float32_products(query.device):  # not held while the caller has the block
                cosine = query[first:end] @ gallery.T
                plain = cosine.mul(-2).add_(2).clamp_(min=0)  # rounding puts equal vectors a little below zero
                distance = blend(encoded, first, lambda_value, cosine)
            progress.update(end)
            yield first, plain, distance


def memory_bytes(queries: int, gallery: int, *, width: int, k1: int, k2: int) -> int:
    """What `both_rows` takes at the most on the device, the embeddings included, for data as rerank.forecast reckons.

    The encodings before and after query expansion, the latter twice and once in the making, at 8 bytes an entry.
    """
    total = queries + gallery
    neighbours = (8 * min(max(k1 + 1, k2), total) + 8 * (SPARE + 2)) * total
    encodings = min(k1 + 1, total) * total * (8 + 8 * k2 * 3)
    return 8 * total * width + neighbours + encodings + BLOCKS_AT_ONCE * exactness.BLOCK_BYTES


def _encode(query: Tensor, gallery: Tensor, *, k1: int, k2: int) -> Encoded:
    vectors = torch.cat([query, gallery])
    neighbours = nearest_neighbours(vectors, count=max(k1 + 1, k2))
    encoding = expand(encode(vectors, neighbours, k1=k1), neighbours.nearest, k2=k2)
    return Encoded(encoding.head(len(query)), invert(encoding, len(query)), neighbours.farthest[: len(query)])
