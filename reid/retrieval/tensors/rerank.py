"""Re-ranking with k-reciprocal encoding on the device of the embeddings. Zhong et al., CVPR 2017, arXiv:1701.08398.

It computes the same as reid.retrieval.rerank, for torch tensors. Memory is bounded in the same way: there are only the
vectors, the sparse encodings and blocks of exactness.BLOCK_BYTES.
Q queries, G gallery images, N = Q + G, D values a vector.
"""

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from reid.console.progress import Progress
from reid.retrieval.distance import query_blocks
from reid.retrieval.knn import SPARE
from reid.retrieval.rerank import check_arguments
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import copies_among, float32_products, padded
from reid.retrieval.tensors.jaccard import Encoded, blend, encode, expand, invert
from reid.retrieval.tensors.knn import nearest_neighbours

logger = logging.getLogger(__name__)

BLOCKS_AT_ONCE = 6
"""Number of temporary tensors of BLOCK_BYTES that exist at the same time."""


def both_rows(
    vectors: Tensor, *, queries: int, k1: int, k2: int, lambda_value: float
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """vectors (N, D), rows of length 1 -> the blocks of reid.retrieval.rerank.both_rows, on their device.

    Equal to its blocks within float32's rounding: the same neighbours, ties by index. Raises ValueError as it does.
    """
    check_arguments(vectors.shape, queries=queries, k1=k1, k2=k2, lambda_value=lambda_value)
    vectors = padded(vectors.detach().float())
    query, gallery = vectors[:queries], vectors[queries:]
    copies = copies_among(gallery)
    later, first_of = (torch.from_numpy(rows).to(vectors.device) for rows in copies)
    with float32_products(vectors.device):
        neighbours = nearest_neighbours(vectors, count=max(k1 + 1, k2))
        for values in neighbours:
            values[queries + later] = values[queries + first_of]
        encoding = expand(encode(vectors, neighbours, k1=k1), neighbours.nearest, k2=k2)
        encoded = Encoded(encoding.head(queries), invert(encoding, queries), neighbours.farthest[:queries])
    del neighbours, encoding
    with Progress("re-ranked distances", queries, "queries") as progress:
        for first, end in query_blocks(queries, len(gallery)):
            with float32_products(vectors.device):  # not held while the caller has the block
                cosine = query[first:end] @ gallery.T
                if len(later):
                    cosine[:, later] = cosine[:, first_of]
                plain = cosine.mul(-2).add_(2).clamp_(min=0)  # rounding puts equal vectors a little below zero
                distance = blend(encoded, first, lambda_value, cosine)
            yield first, plain, distance
            progress.update(end)


def memory_bytes(queries: int, gallery: int, *, width: int, k1: int, k2: int) -> int:
    """The most memory that `both_rows` takes on the device, the vectors included, for data as rerank.forecast assumes.

    It counts the encodings before and after query expansion, the latter twice and once more while they are joined, at
    8 bytes an entry; and the vectors, twice if they are padded.
    """
    total = queries + gallery
    neighbours = (8 * min(max(k1 + 1, k2), total) + 8 * (SPARE + 2)) * total
    encodings = min(k1 + 1, total) * total * (8 + 8 * k2 * 3)
    copies = 2 if width % 4 else 1
    return 4 * copies * total * width + neighbours + encodings + BLOCKS_AT_ONCE * exactness.BLOCK_BYTES
