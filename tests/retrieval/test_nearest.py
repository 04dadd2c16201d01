import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.retrieval.nearest import NearestFinder
from reid.retrieval.protocol import market_protocol
from tests import reference
from tests.retrieval.test_metrics import labels, rankings


def find(distance, known, *, ranks, blocks=()):
    finder = NearestFinder(market_protocol(**known), ranks=ranks)
    for first, end in blocks or [(0, len(distance))]:
        finder.add(first, distance[first:end])
    return finder.found


def test_the_nearest_by_hand():
    # Query: person 1, camera 1. Ignored: index 2 (own camera), 4 (junk). The rest: 5 at 0.1, 0 and 1 both at 0.2, 3.
    known = labels([(1, 1)], [(2, 2), (1, 2), (1, 1), (1, 3), (-1, 2), (0, 2)])
    found = find(np.array([[0.2, 0.2, 0.0, 0.9, 0.05, 0.1]], np.float32), known, ranks=5)
    assert found.image.tolist() == [[5, 0, 1, 3, -1]]
    assert found.distance.tolist() == [np.float32([0.1, 0.2, 0.2, 0.9, np.inf]).tolist()]
    assert (found.first_match.tolist(), found.first_match_distance.tolist()) == ([1], [np.float32(0.2)])


@settings(deadline=None, max_examples=100)
@given(rankings(), st.integers(1, 60))
def test_the_nearest_are_the_first_of_a_stable_sort_wherever_the_blocks_end(case, ranks):
    distance, known = case
    half = len(distance) // 2
    found = find(distance, known, ranks=ranks, blocks=[(half, len(distance)), (0, half)])
    for query in range(len(distance)):
        person = known["query_person"][query]
        order = reference.ranking(
            distance[query],
            person=person,
            camera=known["query_camera"][query],
            gallery_person=known["gallery_person"],
            gallery_camera=known["gallery_camera"],
        )
        top, rest = order[:ranks], max(ranks - len(order), 0)
        assert found.image[query].tolist() == top + [-1] * rest
        assert found.distance[query].tolist() == distance[query, top].tolist() + [np.inf] * rest
        matches = [image for image in order if person > 0 and known["gallery_person"][image] == person]
        first, away = (matches[0], distance[query, matches[0]]) if matches else (-1, np.inf)
        assert (found.first_match[query], found.first_match_distance[query]) == (first, away)
