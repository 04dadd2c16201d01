import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from reid.deploy.parity import parity
from reid.errors import ArtifactError


def test_parity_by_hand():
    # Row 0: equal directions, cosine 1. Row 1: at right angles, cosine 0. Row 2: (3, 4) against (4, 3): 24 / (5 * 5).
    # Coordinates differ by 1, 2 and 1 at most.
    reference = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 4.0]], np.float32)
    candidate = np.array([[2.0, 0.0], [0.0, 2.0], [4.0, 3.0]], np.float32)
    found = parity(reference, candidate)
    assert found.cosines == pytest.approx([1, 0, 24 / 25])
    assert (found.images, found.worst) == (3, (1, 2, 0))
    assert found.worst_cosine == pytest.approx(0)
    assert found.mean_cosine == pytest.approx((1 + 0 + 24 / 25) / 3)
    assert found.max_abs == 2


def test_zero_vectors_agree_with_each_other_only():
    found = parity(np.array([[0.0, 0.0], [0.0, 0.0]]), np.array([[0.0, 0.0], [0.0, 1.0]]))
    assert found.cosines.tolist() == [1, 0]


def test_a_row_that_is_not_finite_is_the_worst_there_can_be():
    found = parity(np.ones((3, 2)), np.array([[1.0, 1.0], [np.nan, 1.0], [np.inf, 1.0]]))
    assert found.cosines == pytest.approx([1, -1, -1])
    assert (found.worst_cosine, found.max_abs, found.worst) == (-1, 0, (1, 2, 0))


def test_only_the_five_worst_rows_are_named_and_ties_go_by_row():
    assert parity(np.ones((9, 1)), np.ones((9, 1))).worst == (0, 1, 2, 3, 4)


@pytest.mark.parametrize(
    ("left", "right", "shapes"),
    [
        ((2, 3), (2, 4), "reference (2, 3) against candidate (2, 4)"),
        ((3,), (3,), "reference (3,) against candidate (3,)"),
        ((0, 3), (0, 3), "reference (0, 3) against candidate (0, 3)"),
    ],
)
def test_arrays_that_cannot_be_compared_are_refused(left, right, shapes):
    with pytest.raises(ArtifactError) as caught:
        parity(np.ones(left), np.ones(right))
    assert str(caught.value) == f"parity: {shapes}\n  want: two arrays of one shape (N, D), N at least 1"


@given(
    arrays(np.float32, (4, 3), elements=st.floats(-100, 100, width=32)),
    st.floats(0.125, 8, width=32),
)
def test_length_does_not_matter_to_the_cosine(reference, factor):
    # 1e-6: subnormal coordinates lose digits when they are scaled, all others none that count in float64
    reference[np.abs(reference) < 1e-30] = 0
    assert parity(reference, reference * np.float32(factor)).cosines == pytest.approx(np.ones(4), abs=1e-6)
