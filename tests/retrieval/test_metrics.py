import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.errors import DatasetError
from reid.retrieval.metrics import Scorer, evaluate
from reid.retrieval.protocol import market_protocol
from tests import reference


def labels(query, gallery):
    """[(person, camera), ...] of queries and gallery."""
    return {
        "query_person": np.array([person for person, _ in query]),
        "query_camera": np.array([camera for _, camera in query]),
        "gallery_person": np.array([person for person, _ in gallery]),
        "gallery_camera": np.array([camera for _, camera in gallery]),
    }


@st.composite
def rankings(draw):
    """Distances full of ties, with junk, distractors, strangers and few cameras."""
    cameras = draw(st.integers(1, 3))
    image = st.tuples(st.sampled_from([-1, 0, 1, 2, 3, 7]), st.integers(1, cameras))
    query = draw(st.lists(image, min_size=1, max_size=6))
    gallery = draw(st.lists(image, min_size=1, max_size=50))
    seed = draw(st.integers(0, 2**32 - 1))
    levels = draw(st.sampled_from([1, 3, 10, 10_000]))
    distance = np.random.default_rng(seed).integers(0, levels, (len(query), len(gallery))) / np.float32(levels)
    return distance.astype(np.float32), labels(query, gallery)


def test_scores_by_hand():
    # Query: person 1, camera 1. Nearest first: index 2 (own camera, ignored), 1 (person 2), 0 (match),
    # 4 (junk, ignored), 5 (distractor), 3 (match). Ranks 1..4: miss, hit, miss, hit.
    # AP = (1/2 + 2/4) / 2; first match at rank 2; last match at rank 4 of 2 matches: penalty 2/4.
    known = labels([(1, 1)], [(1, 2), (2, 2), (1, 1), (1, 3), (-1, 2), (0, 2)])
    scores = evaluate(np.array([[0.3, 0.2, 0.1, 0.9, 0.4, 0.5]], np.float32), **known, max_rank=3)
    assert scores.mAP == 0.5
    assert scores.cmc.tolist() == [0, 1, 1]
    assert scores.mINP == 0.5
    assert scores.first_match_rank.tolist() == [2]
    assert scores.valid_queries == 1


def test_equal_distances_rank_by_index():
    # all at one distance: the match at index 2 is third
    scores = evaluate(np.zeros((1, 4), np.float32), **labels([(1, 1)], [(2, 2), (3, 2), (1, 2), (4, 2)]), max_rank=3)
    assert scores.average_precision.tolist() == [pytest.approx(1 / 3)]
    assert scores.cmc.tolist() == [0, 0, 1]


def test_a_query_without_a_match_is_counted_and_left_out_of_the_means():
    known = labels([(1, 1), (9, 1)], [(1, 2), (2, 2)])
    scores = evaluate(np.array([[0, 1], [0, 1]], np.float32), **known, max_rank=1)
    assert scores.mAP == 1.0
    assert scores.valid_queries == 1
    assert np.isnan(scores.average_precision[1])
    assert np.isnan(scores.inverse_negative_penalty[1])
    assert scores.first_match_rank.tolist() == [1, 0]


@settings(deadline=None, max_examples=300)
@given(rankings(), st.integers(1, 60))
def test_scores_are_those_of_a_stable_sort_to_the_last_bit(case, max_rank):
    distance, known = case
    wanted = None
    if any(
        person > 0 and ((known["gallery_person"] == person) & (known["gallery_camera"] != camera)).any()
        for person, camera in zip(known["query_person"], known["query_camera"], strict=True)
    ):
        wanted = reference.scores(distance, **known, max_rank=max_rank)
    if wanted is None:
        with pytest.raises(DatasetError):
            evaluate(distance, **known, max_rank=max_rank)
        return
    found = evaluate(distance, **known, max_rank=max_rank)
    assert (found.mAP, found.mINP, found.valid_queries) == (wanted.mAP, wanted.mINP, wanted.valid_queries)
    assert np.array_equal(found.cmc, wanted.cmc)
    assert np.array_equal(found.average_precision, wanted.average_precision, equal_nan=True)
    assert np.array_equal(found.inverse_negative_penalty, wanted.inverse_negative_penalty, equal_nan=True)
    assert np.array_equal(found.first_match_rank, wanted.first_match_rank)


def test_a_long_gallery_is_scored_like_a_stable_sort():
    rng = np.random.default_rng(0)
    # longer than the blocks that matches are counted in, with ties across them
    distance = (rng.integers(0, 500, (130, 9000)) / 500).astype(np.float32)
    known = {
        "query_person": rng.integers(1, 40, 130),
        "query_camera": rng.integers(1, 4, 130),
        "gallery_person": rng.integers(-1, 40, 9000),
        "gallery_camera": rng.integers(1, 4, 9000),
    }
    wanted = reference.scores(distance, **known, max_rank=20)
    found = evaluate(distance, **known, max_rank=20)
    assert (found.mAP, found.mINP) == (wanted.mAP, wanted.mINP)
    assert np.array_equal(found.cmc, wanted.cmc)


def test_blocks_in_any_order_score_like_the_whole():
    rng = np.random.default_rng(1)
    distance = rng.random((9, 40), dtype=np.float32)
    known = labels(
        [(person, 1) for person in range(1, 10)], [(person, 2) for person in rng.integers(1, 10, 40).tolist()]
    )
    whole = evaluate(distance, **known, max_rank=5)
    scorer = Scorer(market_protocol(**known), max_rank=5)
    for first in (6, 0, 3):
        scorer.add(first, distance[first : first + 3])
    parts = scorer.scores()
    assert (parts.mAP, parts.mINP) == (whole.mAP, whole.mINP)
    assert np.array_equal(parts.cmc, whole.cmc)


def test_a_column_major_matrix_scores_alike():
    distance = np.random.default_rng(2).random((3, 20), dtype=np.float32)
    known = labels([(1, 1)] * 3, [(1 + index % 4, 2) for index in range(20)])
    assert evaluate(np.asfortranarray(distance), **known, max_rank=5).mAP == evaluate(distance, **known, max_rank=5).mAP


def test_no_match_at_all_is_an_error_that_says_why():
    known = labels([(0, 1), (1, 1), (1, 1), (5, 2)], [(1, 1), (2, 2), (-1, 3)])
    with pytest.raises(DatasetError) as error:
        evaluate(np.zeros((4, 3), np.float32), **known, max_rank=10)
    assert str(error.value) == (
        "evaluation: none of 4 queries has a match (an image of its person from another camera) "
        "among 3 gallery images\n"
        "  1 show no known person (distractor or junk); first: query 0\n"
        "  1 show a person who is not in the gallery; first: person 5\n"
        "  2 have their person in the gallery from their own camera only; first: person 1, camera 1\n"
        "  want: query and gallery of the same persons, each seen by at least two cameras"
    )


def test_a_distance_that_is_not_finite_is_an_error():
    distance = np.zeros((3, 2), np.float32)
    distance[1, 1], distance[2, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="distance: 2 queries have one that is not finite; first: query 1"):
        evaluate(distance, **labels([(1, 1)] * 3, [(1, 2), (2, 2)]), max_rank=1)


def test_a_matrix_of_another_shape_is_an_error():
    with pytest.raises(ValueError, match=r"distance: shape \(2, 3\) from query 0 on; want at most 1 x 3"):
        evaluate(np.zeros((2, 3), np.float32), **labels([(1, 1)], [(1, 2)] * 3), max_rank=1)


def test_scores_before_the_last_block_are_an_error():
    scorer = Scorer(market_protocol(**labels([(1, 1)] * 3, [(1, 2)])), max_rank=1)
    scorer.add(0, np.zeros((2, 1), np.float32))
    with pytest.raises(ValueError, match="1 of 3 queries have no distances yet"):
        scorer.scores()
