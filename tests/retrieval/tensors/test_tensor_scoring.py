import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reid.errors import ArtifactError, DatasetError
from reid.retrieval import distance
from reid.retrieval.distance import distance_rows, l2_normalize
from reid.retrieval.metrics import Scorer, Scores
from reid.retrieval.protocol import Protocol, market_protocol
from reid.retrieval.tensors.scoring import scores, unit_length
from reid.retrieval.threshold import PairCounter


def on_cpu(query: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> Scores:
    scorer = Scorer(protocol, max_rank=10)
    for first, block in distance_rows(query, gallery):
        scorer.add(first, block)
    return scorer.scores()


def by_torch(query: np.ndarray, gallery: np.ndarray, protocol: Protocol) -> Scores:
    return scores(torch.from_numpy(query), torch.from_numpy(gallery), protocol, max_rank=10)


def drawn(seed: int, *, queries: int, gallery: int, values: int | None = None) -> tuple[np.ndarray, ...]:
    """Vectors of length 1, persons (-1: junk, 0: distractors) and cameras; `values`: as few different vectors."""
    rng = np.random.default_rng(seed)
    vectors = l2_normalize(rng.standard_normal((values or queries + gallery, 7)).astype(np.float32))
    vectors = vectors[rng.integers(values, size=queries + gallery)] if values else vectors
    person = np.concatenate([rng.integers(0, 5, queries), rng.integers(-1, 5, gallery)])
    camera = rng.integers(1, 4, queries + gallery)
    person[[0, -1]], camera[[0, -1]] = 1, (1, 2)  # one match at least
    return vectors, person, camera


def protocol_of(queries: int, person: np.ndarray, camera: np.ndarray) -> Protocol:
    return market_protocol(
        query_person=person[:queries], query_camera=camera[:queries],
        gallery_person=person[queries:], gallery_camera=camera[queries:],
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 12),
    gallery=st.integers(1, 60),
    values=st.sampled_from([None, 1, 3]),
    block_rows=st.integers(1, 12),
)
def test_the_scores_of_tensors_are_those_of_the_cpu(seed, queries, gallery, values, block_rows):
    vectors, person, camera = drawn(seed, queries=queries, gallery=gallery, values=values)
    protocol = protocol_of(queries, person, camera)
    if values:  # equal vectors tie; with few different ones, so that different ones never come near each other
        vectors = np.eye(7, dtype=np.float32)[np.unique(vectors, axis=0, return_inverse=True)[1].ravel()]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(distance, "BLOCK_BYTES", 4 * gallery * block_rows)
        found, wanted = (score(vectors[:queries], vectors[queries:], protocol) for score in (by_torch, on_cpu))
    assert found.first_match_rank.tolist() == wanted.first_match_rank.tolist()
    assert found.cmc.tolist() == wanted.cmc.tolist()
    # sums of float64 in another order
    np.testing.assert_allclose(found.average_precision, wanted.average_precision, rtol=1e-12)
    np.testing.assert_allclose(found.inverse_negative_penalty, wanted.inverse_negative_penalty, rtol=1e-12)
    assert (found.mAP, found.mINP) == pytest.approx((wanted.mAP, wanted.mINP), rel=1e-12)
    assert found.valid_queries == wanted.valid_queries


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 12), gallery=st.integers(1, 60))
def test_a_device_counts_the_pairs_that_the_cpu_counts(seed, queries, gallery):
    _, person, camera = drawn(seed, queries=queries, gallery=gallery)
    # cosines 0, 1 and -1 are exact: no distance is in the next bin by rounding
    vectors = np.eye(3, dtype=np.float32)[np.random.default_rng(seed).integers(3, size=len(person))]
    vectors[::5] *= -1
    protocol = protocol_of(queries, person, camera)
    found, wanted = (PairCounter(protocol, low=0, high=4) for _ in range(2))
    scores(*torch.from_numpy(vectors).split([queries, gallery]), protocol, max_rank=10, pairs=found)
    for first, block in distance_rows(vectors[:queries], vectors[queries:]):
        wanted.add(first, block)
    try:
        expected = wanted.verification()
    except DatasetError:
        assume(False)
    for name, values in vars(found.verification()).items():
        np.testing.assert_array_equal(values, vars(expected)[name])


def test_scores_by_hand():
    # One query along x; matches at places 1 and 3, a distractor at 2: AP = (1/1 + 2/3) / 2; mINP = 2/3.
    angle = np.array([0.1, 0.2, 0.3, 0.05, 0.01])
    gallery = np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)
    protocol = market_protocol(
        query_person=np.array([1]), query_camera=np.array([1]),
        gallery_person=np.array([1, 0, 1, 1, -1]), gallery_camera=np.array([2, 2, 2, 1, 2]),
    )  # fmt: skip
    found = by_torch(np.array([[1, 0]], np.float32), gallery, protocol)
    assert (found.mAP, found.mINP, found.cmc[0]) == pytest.approx((5 / 6, 2 / 3, 1.0))


def test_what_the_cpu_refuses_is_refused_in_the_same_words():
    vectors, person, camera = drawn(3, queries=4, gallery=20)
    protocol = protocol_of(4, person, camera)
    alone = protocol_of(4, np.where(np.arange(24) < 4, 9, person), camera)
    broken = vectors.copy()
    broken[2] = np.nan
    for kind, query, by in ((DatasetError, vectors[:4], alone), (ValueError, broken[:4], protocol)):
        texts = []
        for score in (by_torch, on_cpu):
            with pytest.raises(kind) as error:
                score(query, vectors[4:], by)
            texts.append(str(error.value))
        assert texts[0] == texts[1]
    with pytest.raises(ArtifactError, match=r"(?s)1 of 24 have no direction.*row 2, not finite"):
        unit_length(torch.from_numpy(broken))


def test_vectors_get_the_length_that_they_get_on_the_cpu():
    vectors = np.random.default_rng(0).standard_normal((50, 33)).astype(np.float32) * 40
    np.testing.assert_allclose(unit_length(torch.from_numpy(vectors)).numpy(), l2_normalize(vectors), rtol=1.2e-7)
