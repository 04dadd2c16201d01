import tracemalloc

import numpy as np
import pytest

from reid.errors import ArtifactError
from reid.retrieval import distance as module
from reid.retrieval.distance import distance_rows, euclidean_squared, l2_normalize
from tests import reference


def test_rows_are_scaled_to_length_one():
    # (3, 4) has length 5
    assert l2_normalize(np.array([[3.0, 4.0], [0.0, 2.0]])).tolist() == [
        [pytest.approx(0.6), pytest.approx(0.8)],
        [0.0, 1.0],
    ]


def test_a_vector_without_direction_is_an_error():
    vectors = np.ones((5, 2), np.float32)
    vectors[1], vectors[3] = 0, np.nan
    with pytest.raises(ArtifactError) as error:
        l2_normalize(vectors)
    assert str(error.value) == (
        "embeddings: 2 of 5 have no direction\n"
        "  first: row 1, all zeros\n"
        "  want:  finite values, not all zeros; the network may have diverged"
    )


def test_a_right_angle_is_two_and_the_opposite_four():
    # |(1, 0) - (0, 1)|^2 = 2, |(1, 0) - (-1, 0)|^2 = 4
    query, gallery = np.array([[1, 0]], np.float32), np.array([[1, 0], [0, 1], [-1, 0]], np.float32)
    assert euclidean_squared(query, gallery).tolist() == [[0, 2, 4]]


def test_distances_are_those_by_differences():
    rng = np.random.default_rng(0)
    query, gallery = (l2_normalize(rng.standard_normal((count, 2048))) for count in (20, 300))
    # float32 sums of 2,048 products
    assert np.abs(euclidean_squared(query, gallery) - reference.squared_euclidean(query, gallery)).max() < 2e-6
    assert (euclidean_squared(gallery, gallery) >= 0).all()


def test_blocks_of_rows_make_up_the_matrix(monkeypatch):
    monkeypatch.setattr(module, "BLOCK_BYTES", 4 * 30 * 4)  # four rows of 30
    rng = np.random.default_rng(0)
    query, gallery = (l2_normalize(rng.standard_normal((count, 16))) for count in (10, 30))
    blocks = list(distance_rows(query, gallery))
    assert [first for first, _ in blocks] == [0, 4, 8]
    assert np.allclose(np.concatenate([block for _, block in blocks]), euclidean_squared(query, gallery), atol=1e-6)


def test_normalising_takes_the_memory_of_its_result():
    vectors = np.random.default_rng(0).standard_normal((20_000, 64)).astype(np.float32)
    tracemalloc.start()
    try:
        l2_normalize(vectors)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1.2 * vectors.nbytes  # and the lengths, one float64 for 64 values


def test_rows_can_be_written_into_a_larger_array():
    whole = np.zeros((2, 2), np.float32)
    l2_normalize(np.array([[0.0, 3.0]]), out=whole[1:])
    assert whole.tolist() == [[0, 0], [0, 1]]
