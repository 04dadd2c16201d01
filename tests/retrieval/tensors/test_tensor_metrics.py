import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.errors import DatasetError
from reid.retrieval.metrics import Scorer, evaluate
from reid.retrieval.protocol import market_protocol
from reid.retrieval.tensors import exactness, metrics

NAMES = ("average_precision", "inverse_negative_penalty", "first_match_rank", "cmc")


@st.composite
def rankings(draw):
    """Distances full of ties, with junk, distractors, strangers and few cameras, and a size of blocks."""
    image = st.tuples(st.sampled_from([-1, 0, 1, 2, 3, 7]), st.integers(1, draw(st.integers(1, 3))))
    query = draw(st.lists(image, min_size=1, max_size=6))
    gallery = draw(st.lists(image, min_size=1, max_size=50))
    levels = draw(st.sampled_from([1, 3, 10, 10_000]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    distance = rng.integers(0, levels, (len(query), len(gallery))) / np.float32(levels)
    known = {
        f"{which}_{what}": np.array([image[place] for image in images])
        for which, images in (("query", query), ("gallery", gallery))
        for place, what in enumerate(("person", "camera"))
    }
    return distance.astype(np.float32), known, draw(st.sampled_from([1, 300, 1 << 28]))


@settings(deadline=None, max_examples=200)
@given(rankings(), st.integers(1, 60))
def test_scores_are_those_of_the_other_implementation_to_the_last_bit(case, max_rank):
    distance, known, block = case
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "BLOCK_BYTES", block)
        try:
            wanted = evaluate(distance, **known, max_rank=max_rank)
        except DatasetError as error:
            with pytest.raises(DatasetError) as ours:
                metrics.evaluate(torch.from_numpy(distance), **known, max_rank=max_rank)
            assert str(ours.value) == str(error)
            return
        found = metrics.evaluate(torch.from_numpy(distance), **known, max_rank=max_rank)
    assert (found.mAP, found.mINP, found.valid_queries) == (wanted.mAP, wanted.mINP, wanted.valid_queries)
    for name in NAMES:
        assert np.array_equal(getattr(found, name), getattr(wanted, name), equal_nan=True), name


def test_one_query_and_one_camera_have_no_match():
    known = {"query_person": [1], "query_camera": [1], "gallery_person": [1, 1, 2], "gallery_camera": [1, 1, 1]}
    with pytest.raises(DatasetError, match="1 have their person in the gallery from their own camera only"):
        metrics.evaluate(torch.zeros(1, 3), **{name: np.array(values) for name, values in known.items()}, max_rank=1)


def test_distances_are_left_as_they_are():
    distance = torch.rand(3, 5, generator=torch.Generator().manual_seed(0))
    before = distance.clone()
    known = {"query_person": np.array([1, 1, 2]), "query_camera": np.array([1, 2, 1])}
    known |= {"gallery_person": np.array([1, 2, -1, 1, 2]), "gallery_camera": np.array([1, 2, 1, 2, 1])}
    metrics.evaluate(distance, **known, max_rank=3)
    assert torch.equal(distance, before)


def test_blocks_of_both_kinds_make_one_score():
    rng = np.random.default_rng(1)
    distance = rng.random((9, 40), dtype=np.float32)
    known = {"query_person": np.arange(1, 10), "query_camera": np.ones(9, int)}
    known |= {"gallery_person": rng.integers(1, 10, 40), "gallery_camera": np.full(40, 2)}
    scorer = Scorer(market_protocol(**known), max_rank=5)
    scorer.add(0, distance[:4])
    metrics.add_rows(scorer, 4, torch.from_numpy(distance[4:]))
    assert scorer.scores().mAP == evaluate(distance, **known, max_rank=5).mAP


def test_a_distance_that_is_not_finite_and_a_wrong_shape_are_errors():
    known = {"query_person": np.ones(3), "query_camera": np.ones(3)}
    known |= {"gallery_person": np.ones(2), "gallery_camera": np.full(2, 2)}
    distance = torch.zeros(3, 2)
    distance[1, 1], distance[2, 0] = torch.nan, torch.inf
    with pytest.raises(ValueError, match="distance: 2 queries have one that is not finite; first: query 1"):
        metrics.evaluate(distance, **known, max_rank=1)
    with pytest.raises(ValueError, match=r"distance: shape \(3, 3\) from query 0 on; want at most 3 x 2"):
        metrics.evaluate(torch.zeros(3, 3), **known, max_rank=1)
