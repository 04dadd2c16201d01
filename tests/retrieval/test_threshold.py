import tracemalloc

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from reid.errors import DatasetError
from reid.retrieval.protocol import market_protocol
from reid.retrieval.threshold import BINS, PairCounter, verification
from tests import reference


def labels(rng, queries, gallery, people=4):
    return {
        "query_person": rng.integers(1, people, queries),
        "query_camera": rng.integers(1, 4, queries),
        "gallery_person": rng.integers(-1, people, gallery),
        "gallery_camera": rng.integers(1, 4, gallery),
    }


def test_rates_by_hand():
    # A query of person 1, camera 1. Same person at 0.25 and 0.75, others at 0.5 and 1; ignored: own camera at 0, junk.
    # Accepted up to 0.25: (1/2, 0); 0.5: (1/2, 1/2); 0.75: (1, 1/2); 1: (1, 1).
    found = verification(
        np.array([[0.25, 0.75, 0.5, 1.0, 0.0, 0.1]], np.float32),
        query_person=np.array([1]),
        query_camera=np.array([1]),
        gallery_person=np.array([1, 1, 2, 0, 1, -1]),
        gallery_camera=np.array([2, 3, 2, 2, 1, 2]),
    )
    assert found.thresholds[1:].tolist() == [0.25, 0.5, 0.75, 1.0]
    assert found.true_match_rate.tolist() == [0, 0.5, 0.5, 1, 1]
    assert found.false_match_rate.tolist() == [0, 0, 0.5, 0.5, 1]
    # false matches 1/2 = false non-matches 1/2 at 0.5
    assert (found.equal_error_rate, found.equal_error_threshold) == (0.5, 0.5)
    # F1 at 0.75: 2 accepted of 2, 1 wrong: 2 * 2 / (2 + 1 + 2)
    assert (found.best_f1, found.best_f1_threshold) == (0.8, 0.75)
    assert [(p.threshold, p.true_match_rate) for p in found.at_false_match_rate.values()] == [(0.25, 0.5)] * 3
    assert (found.same_person_pairs, found.different_person_pairs) == (2, 2)


@settings(deadline=None, max_examples=80)
@given(seed=st.integers(0, 2**32 - 1), queries=st.integers(1, 8), gallery=st.integers(2, 60))
def test_rates_at_every_threshold_are_those_of_all_pairs_counted(seed, queries, gallery):
    rng = np.random.default_rng(seed)
    known = labels(rng, queries, gallery)
    distance = rng.choice(np.float32([0, 0.5, 0.75, 1.5, 1.75, 2, 4]), (queries, gallery))
    try:
        found = verification(distance, **known)
    except DatasetError:
        assume(False)
    for at in range(1, len(found.thresholds)):
        # a threshold is the upper end of a step: half a step beyond holds the same pairs
        wanted = reference.match_rates(distance, found.thresholds[at] + 2 / BINS, **known)
        assert (found.true_match_rate[at], found.false_match_rate[at]) == wanted
    assert (found.true_match_rate[0], found.false_match_rate[0]) == (0, 0)
    assert (found.true_match_rate[-1], found.false_match_rate[-1]) == (1, 1)
    assert 0 <= found.equal_error_rate <= 1


def test_thresholds_hold_the_false_match_rates_they_promise():
    rng = np.random.default_rng(3)
    known = labels(rng, 300, 3000, people=60)
    same = known["query_person"][:, None] == known["gallery_person"]
    distance = np.where(same, rng.normal(0.6, 0.2, same.shape), rng.normal(1.6, 0.25, same.shape)).clip(0, 4)
    found = verification(distance.astype(np.float32), **known)
    for rate, point in found.at_false_match_rate.items():
        true_rate, false_rate = reference.match_rates(distance, point.threshold, **known)
        assert false_rate <= rate
        # the next of 65,536 steps would be too far, or the rate is reached within a step's worth of pairs
        assert false_rate > 0.9 * rate
        # float32 against float64 distances at the edge of a step
        assert (true_rate, false_rate) == pytest.approx((point.true_match_rate, point.false_match_rate), abs=1e-5)
    # two normals 1 apart with deviations 0.2 and 0.25 cross at 1 / 0.45 = 2.22 deviations: 1.31 %
    assert found.equal_error_rate == pytest.approx(0.0131, abs=1e-3)


def test_blocks_count_like_the_whole():
    rng = np.random.default_rng(4)
    known = labels(rng, 9, 50)
    distance = rng.random((9, 50), dtype=np.float32)
    whole = PairCounter(market_protocol(**known), low=0, high=4)
    whole.add(0, distance)
    parts = PairCounter(market_protocol(**known), low=0, high=4)
    for first in (0, 4):
        parts.add(first, distance[first : first + (4 if first == 0 else 5)])
    assert np.array_equal(parts.verification().true_match_rate, whole.verification().true_match_rate)
    assert parts.verification().equal_error_rate == whole.verification().equal_error_rate


def test_without_pairs_of_two_persons_there_is_nothing_to_verify():
    with pytest.raises(DatasetError) as error:
        verification(
            np.zeros((1, 2), np.float32),
            query_person=np.array([1]),
            query_camera=np.array([1]),
            gallery_person=np.array([1, -1]),
            gallery_camera=np.array([2, 2]),
        )
    assert str(error.value) == (
        "verification: 1 pairs of one person and 0 pairs of two, from 1 queries and 2 gallery images\n"
        "  want: at least one of each"
    )


def test_many_queries_are_counted_in_the_memory_of_a_few(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    rng = np.random.default_rng(5)
    known, distance = labels(rng, 40_000, 20), rng.random((40_000, 20), dtype=np.float32)
    counter = PairCounter(market_protocol(**known), low=0, high=4)
    counter.add(0, distance[:10])
    tracemalloc.start()
    try:
        counter.add(0, distance)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 12 * 16 * BINS  # those counted for some of the 313 parts, 16 bytes a bin
