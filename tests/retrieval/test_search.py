import re

import numpy as np
import pytest

from reid.errors import ArtifactError
from reid.retrieval.distance import l2_normalize
from reid.retrieval.search import TILE, search


def drawn(count: int, width: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32)


def slow(queries: np.ndarray, gallery: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A stable sort of exact distances of the vectors scaled to length 1."""
    unit = l2_normalize(gallery.astype(np.float32)).astype(np.float64)
    distance = ((queries[:, None].astype(np.float64) - unit[None]) ** 2).sum(axis=2)
    order = np.argsort(np.round(distance, 12), axis=1, kind="stable")[:, :count]
    return order, 1 - np.take_along_axis(distance, order, 1) / 2


def blocks(gallery: np.ndarray, sizes: list[int]) -> list[np.ndarray]:
    return np.split(gallery, np.cumsum(sizes))


def test_three_vectors_by_hand():
    # The query points along x. The gallery at 0, 60 and 90 degrees has cosines 1, 0.5 and 0, whatever the lengths.
    gallery = np.array([[0, 3], [5, 0], [1, np.sqrt(3)]], np.float32)
    found = search(np.array([[1, 0]], np.float32), [gallery], count=5)
    assert found.row.tolist() == [[1, 2, 0, -1, -1]]
    assert found.similarity[0] == pytest.approx([1, 0.5, 0, -np.inf, -np.inf], abs=1e-7)


@pytest.mark.parametrize("data_type", [np.float32, np.float16])
def test_the_hits_are_those_of_a_stable_sort_whatever_the_blocks(data_type):
    queries, gallery = l2_normalize(drawn(300, 24, 0)), drawn(2 * TILE + 77, 24, 1).astype(data_type)
    row, similarity = slow(queries, gallery, 9)
    for sizes in ([], [1, 5, 2048, 900], [TILE]):
        found = search(queries, blocks(gallery, sizes), count=9)
        assert (found.row == row).mean() == 1
        assert found.similarity == pytest.approx(similarity, abs=1e-6)


def test_equal_vectors_come_in_the_order_of_their_rows_in_every_block():
    queries = l2_normalize(drawn(3, 8, 0))
    gallery = np.repeat(drawn(4, 8, 1), 1500, axis=0)  # each 1500 times
    gallery = gallery[np.random.default_rng(2).permutation(len(gallery))]
    row, _ = slow(queries, gallery, 20)
    for sizes in ([], [7, 4000]):
        assert search(queries, blocks(gallery, sizes), count=20).row.tolist() == row.tolist()


def test_a_query_that_is_in_the_gallery_has_similarity_one_exactly():
    gallery = drawn(50, 16, 3)
    found = search(l2_normalize(gallery), [gallery], count=1)
    assert found.row[:, 0].tolist() == list(range(50))
    assert found.similarity[:, 0] == pytest.approx(1, abs=1e-6)


def test_no_gallery_has_no_hits_and_progress_counts_rows():
    seen: list[int] = []
    assert search(np.ones((1, 1), np.float32), [], count=2).row.tolist() == [[-1, -1]]
    search(np.ones((1, 1), np.float32), [np.ones((TILE + 1, 1))], count=2, seen=seen.append)
    assert seen == [TILE, TILE + 1]


@pytest.mark.parametrize(("value", "found"), [(0, "all zeros"), (np.nan, "not finite"), (np.inf, "not finite")])
def test_a_gallery_vector_without_direction_names_its_row(value, found):
    gallery = np.ones((TILE + 9, 4), np.float32)
    gallery[TILE + 3] = value
    text = f"gallery: row {TILE + 4} has no direction\n  found: {found}\n  want: finite values, not all zeros"
    with pytest.raises(ArtifactError, match=re.escape(text)):
        search(l2_normalize(drawn(2, 4, 0)), [gallery], count=1)
