import itertools
import logging

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.embeddings import Embeddings
from reid.retrieval import distance as distance_module
from reid.retrieval.distance import euclidean_squared
from reid.retrieval.metrics import evaluate
from reid.retrieval.protocol import market_protocol
from reid.retrieval.threshold import PairCounter
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter, threshold_rows
from tests import reference
from tests.reranked import rerank
from tests.scoring.circle import DEVICE, GALLERY, QUERY, SETTINGS


def test_both_rankings_are_scored_and_the_length_of_an_embedding_does_not_matter():
    # Query 1 (0 degrees): its own-camera image is ignored; 30 (person 2), 60 (person 1, right): AP 1/2.
    # Query 2 (90): 60 (person 1), 30 (person 2, right): AP 1/2. Query 3 has no image in the gallery.
    scored = score(QUERY, GALLERY, **SETTINGS)
    figures = {"mAP": 0.5, "rank1": 0.0, "rank5": 1.0, "rank10": 1.0, "mINP": 0.5}
    # two persons with equal values: sqrt(0.025) = 0.158; others might all be at 0, or at 1
    ranges = {"mAP_low": 0.079, "mAP_high": 0.921, "rank1_low": 0.0, "rank1_high": 0.842}
    assert scored.plain.metrics() == pytest.approx(figures | ranges, abs=1e-3)
    assert scored.plain.scores.valid_queries == 2
    assert scored.plain.nearest.image[0, :4].tolist() == [1, 2, 3, -1]
    assert scored.plain.nearest.distance[0, :3] == pytest.approx(2 - 2 * np.cos(np.radians([30, 60, 180])), abs=1e-6)
    assert scored.reranked.metrics("reranked_").keys() == {
        "reranked_mAP",
        "reranked_rank1",
        "reranked_rank5",
        "reranked_rank10",
        "reranked_mINP",
        *("reranked_mAP_low", "reranked_mAP_high", "reranked_rank1_low", "reranked_rank1_high"),
    }


def test_a_curve_has_the_ranks_asked_for_although_rank_ten_is_always_scored():
    scored = score(QUERY, GALLERY, **SETTINGS)
    assert scored.plain.curve("plain", 3).cmc.tolist() == [0.0, 1.0, 1.0]


def test_more_neighbours_than_images_are_lowered_with_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        scored = score(QUERY, GALLERY, **SETTINGS)
    assert (scored.k1, scored.k2) == (6, 6)
    assert "re_ranking.k1 is 20, but there are 7 images: 6 neighbours are used" in caplog.messages


# directions of length 1 whose distances are exact in float32, so that ties are ties and blocks round alike
DIRECTIONS = np.concatenate([np.eye(4), -np.eye(4), 0.5 * np.array(list(itertools.product([1, -1], repeat=4)))])
WHO = st.lists(st.tuples(st.sampled_from([0, 1, 2, 3]), st.integers(1, 3), st.integers(0, 23)), min_size=1, max_size=30)


def embedded(images: list[tuple[int, int, int]]) -> Embeddings:
    person, camera, direction = (np.array(column, np.int64) for column in zip(*images))
    paths = [f"/d/{number}.jpg" for number in range(len(images))]
    return Embeddings(paths, person, camera, DIRECTIONS[direction].astype(np.float32))


@settings(deadline=None, max_examples=60)
@given(WHO, WHO, st.integers(1, 7))
def test_blocks_give_what_the_whole_matrices_give_to_the_last_bit(queries, images, block_queries):
    query, gallery = embedded([(1, 1, 0), *queries]), embedded([(1, 2, 3), (2, 1, 5), *images])
    known = {
        "query_person": query.person,
        "query_camera": query.camera,
        "gallery_person": gallery.person,
        "gallery_camera": gallery.camera,
    }
    parameters = {"k1": min(6, len(query) + len(gallery) - 1), "k2": 2, "lambda_value": 0.3}
    pairs = pair_counter(query, gallery)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance_module, "BLOCK_BYTES", 4 * len(gallery) * block_queries)
        scored = score(query, gallery, **parameters, **DEVICE, max_rank=12, pairs=pairs)
    matrices = {
        "plain": euclidean_squared(query.vectors, gallery.vectors),
        "reranked": rerank(query.vectors, gallery.vectors, **parameters),
    }
    for kind, distance in matrices.items():
        wanted, found = evaluate(distance, **known, max_rank=12), scored.ranking(kind)
        assert (found.scores.mAP, found.scores.mINP) == (wanted.mAP, wanted.mINP)
        assert np.array_equal(found.scores.cmc, wanted.cmc)
        assert np.array_equal(found.scores.average_precision, wanted.average_precision, equal_nan=True)
        for row in range(len(query)):
            order = reference.ranking(
                distance[row],
                person=query.person[row],
                camera=query.camera[row],
                gallery_person=gallery.person,
                gallery_camera=gallery.camera,
            )[:12]
            assert found.nearest.image[row, : len(order)].tolist() == order
            assert np.array_equal(found.nearest.distance[row, : len(order)], distance[row, order])
    whole = PairCounter(market_protocol(**known), low=0, high=4)
    whole.add(0, matrices["plain"])
    assert threshold_rows(pairs.verification()) == threshold_rows(whole.verification())
