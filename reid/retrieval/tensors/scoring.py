"""Scores of the plain ranking on the device of the embeddings: the same as reid.retrieval.metrics gives.

On a GPU a sort of all distances is cheap, so the ranking is sorted, equally distant images by their index; the places
of the matches in it are all that the scores need. Q queries, G gallery images, D values a vector, M most matches of a
query in a block.

The distances are float32 and rounded in another order than on the CPU, so two images whose distances differ by less
than about 1e-6 may change places. Otherwise the places are the same, and the scores equal up to 1e-12.
"""

import torch
from torch import Tensor

from reid.retrieval.distance import l2_normalize, query_blocks
from reid.retrieval.metrics import PerQuery, Scores
from reid.retrieval.protocol import Protocol
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import copies_among, float32_products, padded
from reid.retrieval.threshold import BINS, PairCounter


def scores(
    query: Tensor, gallery: Tensor, protocol: Protocol, *, max_rank: int, pairs: PairCounter | None = None
) -> Scores:
    """query (Q, D) and gallery (G, D), rows of length 1, on one device -> Scores, with a CMC up to rank `max_rank`.

    `pairs` counts the distances on the device; one at the edge of a bin may be in the next one of the CPU's. Raises
    DatasetError if no query has a match, ValueError if a distance is not finite.
    """
    device = query.device
    query, gallery = padded(query), padded(gallery)
    later, first_of = (torch.from_numpy(rows).to(device) for rows in copies_among(gallery))
    query_person, query_camera, person, camera = (torch.from_numpy(values).to(device) for values in protocol[:4])
    found = PerQuery.none_yet(len(query))
    for first, end in query_blocks(len(query), len(gallery)):
        with float32_products(device):
            distance = query[first:end] @ gallery.T
            if len(later):
                distance[:, later] = distance[:, first_of]
            distance.mul_(-2).add_(2).clamp_(min=0)
            finite = distance.isfinite().all(dim=1)
            of_person = (query_person[first:end, None] == person) & (person > 0)
            elsewhere = query_camera[first:end, None] != camera
            distance.masked_fill_((person < 0) | (of_person & ~elsewhere), torch.inf)
            block = _score_rows(distance, of_person & elsewhere)
        rows = PerQuery(*(values[first:end] for values in found))  # type: ignore[arg-type]
        for into, values in zip(rows, (*block, finite)):
            into[:] = values.cpu().numpy()
        rows.require_finite(first)
        if pairs:
            _count_pairs(distance, of_person, query_person[first:end] > 0, pairs)
    return found.scores(protocol, max_rank=max_rank)


def unit_length(vectors: Tensor) -> Tensor:
    """vectors (N, D) float32 -> each row scaled to length 1; raises ArtifactError as reid.retrieval's l2_normalize."""
    rows = max(1, exactness.BLOCK_BYTES // (24 * vectors.shape[1]))
    scaled, well = torch.empty_like(vectors), torch.ones((), dtype=torch.bool, device=vectors.device)
    for part, out in zip(torch.split(vectors, rows), torch.split(scaled, rows)):
        length = part.double().norm(dim=1, keepdim=True)
        well &= (length.isfinite() & (length > 0)).all()
        out.copy_(part.double().div_(length))
    if not well:
        l2_normalize(vectors.cpu().numpy())  # raises the error that names the rows
    return scaled


def _count_pairs(distance: Tensor, same: Tensor, known: Tensor, pairs: PairCounter) -> None:
    """Counts the pairs of distance (n, G), inf if they are ignored; same (n, G) bool; known (n,): persons above 0."""
    low, steps = pairs.scale
    place = distance.double().sub_(low).mul_(steps).ceil_().sub_(1).clamp_(0, BINS - 1).long()
    place += BINS * same
    place.masked_fill_(distance.isinf() | ~known[:, None], 2 * BINS)
    counts = torch.bincount(place.ravel(), minlength=2 * BINS + 1).cpu().numpy()
    pairs.add_counted(counts[BINS : 2 * BINS], counts[:BINS])


def _score_rows(distance: Tensor, matches: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """distance (n, G), matches (n, G) bool -> average precision, inverse negative penalty, place of the first match."""
    ranking = distance.argsort(dim=1, stable=True)
    row, place = matches.gather(1, ranking).nonzero(as_tuple=True)  # by row, then by place
    count = matches.sum(dim=1)
    number = torch.arange(len(row), device=row.device) - (count.cumsum(0) - count)[row]  # of the match, from 0
    widest = max(1, int(count.max())) if len(count) else 1
    places = torch.zeros(len(matches), widest, dtype=torch.float64, device=row.device)  # (n, M), 0 beyond the last
    places[row, number] = (place + 1).double()
    numbers = torch.arange(1, widest + 1, device=row.device)
    precision = torch.where(places > 0, numbers / places, 0.0).sum(dim=1)
    return precision / count, count / places.amax(dim=1), places[:, 0].long()
