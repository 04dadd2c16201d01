import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reid.embeddings import Embeddings
from reid.training import validation
from reid.training.validation import validation_triplet


def embeddings(vectors: list[list[float]], person: list[int]) -> Embeddings:
    count = len(person)
    return Embeddings(
        [""] * count, np.array(person), np.ones(count, np.int64), np.array(vectors, np.float32).reshape(count, -1)
    )


def test_validation_triplet_by_hand():
    # On a line. Queries: person 1 at 0, person 2 at 4. Gallery: 1 at 1 and 3, 2 at 9, a distractor at 6.
    # Anchor 0: 3 to its own, 4 to the nearest other: 3 - 4 + 0.3 < 0. Anchor 4: 5 to its own, 1 to 3: 5 - 1 + 0.3.
    query = embeddings([[0], [4]], [1, 2])
    gallery = embeddings([[1], [3], [9], [6]], [1, 1, 2, 0])
    assert validation_triplet(query, gallery, margin=0.3) == pytest.approx(4.3 / 2, rel=1e-5)


def test_queries_without_a_positive_or_a_negative_do_not_count():
    assert validation_triplet(embeddings([[0]], [1]), embeddings([[1]], [2]), margin=0.3) == 0
    assert validation_triplet(embeddings([[0]], [1]), embeddings([[1]], [1]), margin=0.3) == 0


@given(st.integers(2, 9), st.integers(1, 12), st.integers(0, 99))
def test_validation_triplet_does_not_depend_on_its_blocks(queries, images, seed):
    rng = np.random.default_rng(seed)
    query, gallery = (
        embeddings(rng.normal(size=(count, 3)).tolist(), rng.integers(low, 4, count).tolist())
        for count, low in ((queries, 1), (images, 0))
    )
    whole = validation_triplet(query, gallery, margin=0.3)
    before = validation.BLOCK_ROWS
    try:
        validation.BLOCK_ROWS = 2
        # the order of float32 sums in a matrix product depends on its size
        assert validation_triplet(query, gallery, margin=0.3) == pytest.approx(whole, rel=1e-4, abs=1e-5)
    finally:
        validation.BLOCK_ROWS = before
