import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reid.retrieval.copies import Copies


@given(picks=st.lists(st.integers(0, 4), max_size=30), same_keys=st.booleans())
def test_copies_are_those_of_a_loop_over_all_pairs(picks, same_keys):
    # the sign of a zero makes no other vector, that of a one does
    vectors = np.array([[0, 1], [-0.0, 1], [0, -1], [1, 0], [0, 0]], np.float32)[picks].reshape(-1, 2)
    wanted = [
        (row, next(other for other in range(row + 1) if (vectors[other] == vectors[row]).all()))
        for row in range(len(vectors))
    ]
    wanted = [pair for pair in wanted if pair[0] != pair[1]]
    found = Copies.of_equal_keys(np.zeros(len(vectors)), vectors) if same_keys else Copies.among(vectors)
    assert list(zip(found.later.tolist(), found.first.tolist())) == wanted


def test_if_all_vectors_differ_only_few_are_compared(monkeypatch):
    vectors = np.random.default_rng(0).standard_normal((5000, 16)).astype(np.float32)
    compared = []
    monkeypatch.setattr("reid.retrieval.copies._digest", lambda row: compared.append(row) or row.tobytes())
    assert Copies.among(vectors).later.size == 0
    assert len(compared) < 10  # 12.5 million pairs and 2^32 keys: none is expected


def test_columns_of_later_copies_become_those_of_the_first():
    columns = np.array([[1, 2, 3, 4]], np.float32)
    Copies(np.array([2, 3]), np.array([0, 0])).equalise(columns)
    assert columns.tolist() == [[1, 2, 1, 1]]
