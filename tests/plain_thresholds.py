"""The thresholds of embeddings by one pass of their own, for tests."""

from reid.embeddings import Embeddings
from reid.retrieval.distance import distance_rows, l2_normalize
from reid.retrieval.threshold import PairCounter
from reid.scoring.matches import protocol_of
from reid.scoring.verification import thresholds_of
from reid.thresholds import Thresholds


def plain_thresholds(query: Embeddings, gallery: Embeddings, *, measured_on: str) -> Thresholds:
    """The thresholds by the plain distances between query and gallery, which holds no junk."""
    pairs = PairCounter(protocol_of(query, gallery), low=0, high=4)
    for first, distance in distance_rows(l2_normalize(query.vectors), l2_normalize(gallery.vectors)):
        pairs.add(first, distance)
    return thresholds_of(pairs.verification(), measured_on=measured_on)
