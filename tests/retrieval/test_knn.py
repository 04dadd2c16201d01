import itertools
import logging
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.retrieval import knn
from reid.retrieval.distance import l2_normalize
from reid.retrieval.knn import ROUNDING, near_tie_margin, nearest_neighbours
from tests import reference

# 24 directions of length 1 whose distances are exact in float32, so that ties are ties: e1, -e1, .. and (+-1/2)^4
DIRECTIONS = np.concatenate([np.eye(4), -np.eye(4), 0.5 * np.array(list(itertools.product([1, -1], repeat=4)))])


@pytest.fixture
def small_tiles(monkeypatch):
    monkeypatch.setattr(knn, "TILE", 16)


def check(vectors, count):
    found = nearest_neighbours(vectors, count=count)
    distance = reference.squared_euclidean(vectors, vectors)
    wanted = np.argsort(distance, axis=1, kind="stable")[:, :count]
    assert np.array_equal(found.nearest, wanted)
    # 2 - 2 cos of a float32 product of vectors whose length is nearly 1
    tolerance = near_tie_margin(vectors.shape[1])
    assert np.abs(found.distance - np.take_along_axis(distance, wanted, axis=1)).max() < tolerance
    assert np.abs(found.farthest - distance.max(axis=1)).max() < tolerance
    return found


def test_neighbours_by_hand():
    # on the circle, from 0 degrees: 10 degrees, then 350 (as near, higher index), 40, 180
    angle = np.radians([0, 10, 40, 180, 350])
    vectors = l2_normalize(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert nearest_neighbours(vectors, count=4).nearest[0].tolist() in ([0, 1, 4, 2], [0, 4, 1, 2])
    found = nearest_neighbours(DIRECTIONS[[0, 1, 4, 2]].astype(np.float32), count=3)
    # e1: itself, then e2 and e3 at distance 2, then -e1 at 4
    assert found.nearest[0].tolist() == [0, 1, 3]
    assert found.distance[0].tolist() == [0, 2, 2]
    assert found.farthest[0] == 4


@settings(deadline=None, max_examples=60)
@given(picks=st.lists(st.integers(0, 23), min_size=1, max_size=60), count=st.integers(1, 70))
def test_ties_go_by_index(picks, count):
    check(DIRECTIONS[picks].astype(np.float32), count)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 2**32 - 1), total=st.integers(1, 150), width=st.integers(2, 40), count=st.integers(1, 30))
def test_tiles_of_any_number_give_the_neighbours_of_a_full_sort(seed, total, width, count):
    patch = pytest.MonkeyPatch()
    with patch.context() as context:
        context.setattr(knn, "TILE", 16)
        check(l2_normalize(np.random.default_rng(seed).standard_normal((total, width))), count)


def test_large_tiles_give_the_neighbours_of_a_full_sort():
    check(l2_normalize(np.random.default_rng(1).standard_normal((2500, 64))), 21)


def test_many_copies_of_one_image_are_searched_again_and_ordered_by_index():
    rng = np.random.default_rng(2)
    vectors = l2_normalize(rng.standard_normal((1300, 24)))
    vectors[rng.permutation(1300)[:200]] = vectors[0]
    found = check(vectors, 21)
    assert found.crowded.sum() >= 200


@pytest.mark.parametrize("again_bytes", [1, 1 << 25])
def test_vectors_searched_again_are_few_at_a_time_and_logged(monkeypatch, caplog, again_bytes):
    monkeypatch.setattr(knn, "AGAIN_BYTES", again_bytes)
    monkeypatch.setattr("reid.console.progress.INTERVAL_S", 0.0)
    vectors = l2_normalize(np.random.default_rng(9).standard_normal((300, 24)))
    vectors[::3] = vectors[0]
    with caplog.at_level(logging.INFO):
        found = check(vectors, 21)
    again = found.crowded.sum()
    assert again >= 100
    assert f"{again} of 300 vectors have near-ties beyond float32: searched again" in caplog.messages
    assert any(line.startswith(f"near-ties: {again}/{again} vectors") for line in caplog.messages)


@pytest.mark.parametrize(("width", "seed"), list(itertools.product([64, 256, 2048], range(3))))
def test_vectors_of_three_values_have_the_neighbours_of_a_full_sort(width, seed):
    # their float32 products are off by errors of one sign: some 3e-6 at 256 values
    vectors = l2_normalize(np.random.default_rng(seed).integers(1, 4, (250, width)).astype(np.float32))
    distance = reference.squared_euclidean(vectors, vectors)
    found = nearest_neighbours(vectors, count=21).nearest
    # which of two comes first may hang on the last bit of a float64 sum
    assert np.abs(np.take_along_axis(distance, found, axis=1) - np.sort(distance, axis=1)[:, :21]).max() < 1e-13


def test_nearly_equal_embeddings_of_an_untrained_network_are_told_apart():
    rng = np.random.default_rng(3)
    vectors = l2_normalize(1 + 1e-3 * rng.standard_normal((400, 64)))
    check(vectors, 10)


def test_the_number_of_threads_changes_nothing(monkeypatch, small_tiles):
    vectors = l2_normalize(np.random.default_rng(4).standard_normal((300, 32)))
    vectors[100:140] = vectors[7]
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "1")
    one = nearest_neighbours(vectors, count=12)
    monkeypatch.setitem(os.environ, "OMP_NUM_THREADS", "5")
    five = nearest_neighbours(vectors, count=12)
    assert all(np.array_equal(a, b) for a, b in zip(one, five, strict=True))


KINDS = {
    "as after a ReLU": lambda rng, shape: np.abs(rng.standard_normal(shape)) ** 0.3,
    "of both signs": lambda rng, shape: rng.standard_normal(shape),
    "quantised": lambda rng, shape: np.maximum(np.round(2 * rng.standard_normal(shape) + 3), 0),
    "of three values": lambda rng, shape: rng.integers(1, 4, shape),
    "binary": lambda rng, shape: rng.random(shape) < rng.uniform(0.3, 0.99, (shape[0], 1)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("width", [64, 256, 512, 2048])
def test_float32_products_stay_within_the_rounding_that_is_reckoned_with(width, kind):
    vectors = l2_normalize(KINDS[kind](np.random.default_rng(width), (500, width)).astype(np.float32))
    cosine = vectors.astype(np.float64) @ vectors.T.astype(np.float64)
    assert np.abs(vectors @ vectors.T - cosine).max() < ROUNDING * (4 + np.sqrt(width))


def test_every_pair_of_strips_comes_once():
    for strips in range(1, 12):
        order = list(knn._tile_order(strips))
        assert sorted(order) == [(row, column) for row in range(strips) for column in range(row, strips)]


def test_a_vector_of_another_length_is_an_error():
    with pytest.raises(ValueError, match="vectors: 1 of 3 do not have length 1; first: row 2, length 2; l2_normalize"):
        nearest_neighbours(np.array([[1, 0], [0, 1], [0, 2]], np.float32), count=1)
