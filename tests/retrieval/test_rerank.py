import itertools
import os
import subprocess
import sys
from contextlib import contextmanager

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from reid.retrieval import distance as distance_module
from reid.retrieval import knn
from reid.retrieval import rerank as rerank_module
from reid.retrieval.distance import l2_normalize
from reid.retrieval.metrics import evaluate
from reid.retrieval.parallel import row_ranges
from reid.retrieval.rerank import both_rows, forecast
from tests import reference
from tests.openblas import core_types_here
from tests.reranked import matrices, rerank, textbook, tolerance

# 24 directions of length 1 whose distances are exact in float32, so that ties are ties
DIRECTIONS = np.concatenate([np.eye(4), -np.eye(4), 0.5 * np.array(list(itertools.product([1, -1], repeat=4)))])
TOLERANCE = 1e-6  # float32 sums of products and of weights


def persons(rng, *, queries, gallery, width, spread=1.2):
    """Embeddings in clusters, as persons give them, and who and where they are."""
    centre = rng.standard_normal((max(2, (queries + gallery) // 12), width))
    person = rng.integers(0, len(centre), queries + gallery)
    vectors = l2_normalize(centre[person] + spread * rng.standard_normal((queries + gallery, width)))
    camera = rng.integers(1, 7, queries + gallery)
    labels = {
        "query_person": person[:queries] + 1,
        "query_camera": camera[:queries],
        "gallery_person": person[queries:] + 1,
        "gallery_camera": camera[queries:],
    }
    return vectors[:queries], vectors[queries:], labels


def test_a_reciprocal_neighbour_comes_before_a_nearer_hub_by_hand():
    # k1 = 1, k2 = 1, lambda 0. Query at 0 degrees, gallery at 20, 36 and 50; two neighbours, itself one of them.
    # Nearest other one: 0 -> 20, 20 -> 36, 36 -> 50, 50 -> 36. Mutual: only 36 and 50. R(0) = {0}, R(20) = {20}.
    # The query shares no member with anybody: every Jaccard distance is 1.
    angle = np.radians([0, 20, 36, 50])
    vectors = l2_normalize(np.stack([np.cos(angle), np.sin(angle)], axis=1))
    assert rerank(vectors[:1], vectors[1:], k1=1, k2=1, lambda_value=0).tolist() == [[1, 1, 1]]
    # From 36: R = {36, 50}, as R(50). Weights exp(-d / farthest) / sum; d(36, 50) = 2 - 2 cos 14 = 0.05941,
    # farthest of 36 is 0: 2 - 2 cos 36 = 0.38197; of 50: 2 - 2 cos 50 = 0.71442. exp(-0.05941 / 0.38197) = 0.85596,
    # exp(-0.05941 / 0.71442) = 0.92021: encodings (0.53880, 0.46120) and (0.47922, 0.52078) over (36, 50).
    # Lesser weights 0.47922 + 0.46120 = 0.94042; Jaccard 1 - 0.94042 / 1.05958 = 0.11246.
    found = rerank(vectors[2:3], vectors[[0, 1, 3]], k1=1, k2=1, lambda_value=0)
    assert found.tolist() == [[1, 1, pytest.approx(0.11246, abs=1e-5)]]


def test_lambda_one_is_the_original_distance_over_the_greatest():
    # from e1: e2 at 2, -e1 at 4, so 0.5 and 1
    found = rerank(np.array([[1, 0]], np.float32), np.array([[0, 1], [-1, 0]], np.float32), k1=20, k2=6, lambda_value=1)
    assert found.tolist() == [[0.5, 1]]


PARAMETERS = st.fixed_dictionaries(
    {"k1": st.integers(1, 60), "k2": st.integers(1, 12), "lambda_value": st.sampled_from([0, 0.3, 0.77, 1])}
)


LAYOUTS = st.tuples(st.sampled_from([5, 16, 17, 1024]), st.booleans(), st.sampled_from([1, 3, 1000]))
"""Rows of a tile, fewer or more than the queries; whether the search's cosines are kept; queries of a block."""


@contextmanager
def laid_out(layout):
    tile, keep, rows = layout
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(knn, "TILE", tile)
        patch.setattr(rerank_module, "KEPT_BYTES", 1 << 30 if keep else 0)
        patch.setattr(rerank_module, "query_blocks", lambda queries, _: row_ranges(queries, size=rows))
        yield


@settings(deadline=None, max_examples=150)
@given(
    query=st.lists(st.integers(0, 23), min_size=1, max_size=40),
    gallery=st.lists(st.integers(0, 23), min_size=1, max_size=40),
    parameters=PARAMETERS,
    layout=LAYOUTS,
)
@example([0] * 17 + [1], [0] * 33 + [1, 1], {"k1": 50, "k2": 2, "lambda_value": 0}, (5, False, 3))  # 50 equal weights
def test_duplicates_ties_and_any_k_give_the_textbook_distance(query, gallery, parameters, layout):
    query, gallery = DIRECTIONS[query].astype(np.float32), DIRECTIONS[gallery].astype(np.float32)
    if (np.concatenate([query, gallery]) == query[0]).all():
        return  # one point: the textbook divides 0 by 0; see below
    with laid_out(layout):
        plain, final = matrices(query, gallery, **parameters)
    assert np.abs(final - textbook(query, gallery, **parameters)).max() < TOLERANCE
    assert np.array_equal(plain, reference.squared_euclidean(query, gallery))


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 40),
    gallery=st.integers(1, 80),
    width=st.sampled_from([2, 3, 17, 64, 257]),
    parameters=PARAMETERS,
    layout=LAYOUTS,
)
def test_persons_give_the_textbook_distance(*, seed, queries, gallery, width, parameters, layout):
    query, gallery, _ = persons(np.random.default_rng(seed), queries=queries, gallery=gallery, width=width)
    with laid_out(layout):
        plain, final = matrices(query, gallery, **parameters)
    assert np.abs(final - textbook(query, gallery, **parameters)).max() < tolerance(query, gallery)
    assert np.abs(plain - reference.squared_euclidean(query, gallery)).max() < TOLERANCE


@pytest.mark.parametrize(("width", "spread"), [(256, 2.5), (2048, 5)])
def test_a_gallery_of_several_tiles_gives_the_textbook_distance_and_scores(monkeypatch, width, spread):
    monkeypatch.setattr(knn, "TILE", 200)
    query, gallery, labels = persons(np.random.default_rng(5), queries=70, gallery=600, width=width, spread=spread)
    found = rerank(query, gallery, k1=20, k2=6, lambda_value=0.3)
    wanted = textbook(query, gallery, k1=20, k2=6, lambda_value=0.3)
    assert np.abs(found - wanted).max() < TOLERANCE
    ours, theirs = evaluate(found, **labels, max_rank=50), reference.scores(wanted, **labels, max_rank=50)
    assert 0.3 < theirs.mAP < 0.99  # neither hopeless nor trivial
    assert abs(ours.mAP - theirs.mAP) < 1e-6
    assert np.array_equal(ours.cmc, theirs.cmc)


def test_one_point_only_has_no_nan():
    found = rerank(np.ones((2, 1), np.float32), np.ones((3, 1), np.float32), k1=20, k2=6, lambda_value=0.3)
    assert np.abs(found).max() < TOLERANCE


def test_blocks_have_the_queries_in_order_with_both_distances(monkeypatch):
    monkeypatch.setattr(distance_module, "BLOCK_BYTES", 4 * 300 * 7)  # seven queries of 300
    query, gallery, _ = persons(np.random.default_rng(6), queries=40, gallery=300, width=64)
    vectors = np.concatenate([query, gallery])
    shapes = [
        (first, plain.shape, final.shape)
        for first, plain, final in both_rows(vectors, queries=40, k1=20, k2=6, lambda_value=0.3)
    ]
    assert [first for first, _, _ in shapes] == [0, 7, 14, 21, 28, 35]
    assert {shape[1:] for shape in shapes} == {((7, 300), (7, 300)), ((5, 300), (5, 300))}


@pytest.mark.parametrize("kept_bytes", [0, 1 << 30])
def test_cosines_kept_from_the_search_are_used_instead_of_a_second_product(monkeypatch, kept_bytes):
    query, gallery, _ = persons(np.random.default_rng(6), queries=40, gallery=300, width=64)
    monkeypatch.setattr(rerank_module, "KEPT_BYTES", kept_bytes)
    monkeypatch.setattr(rerank_module, "_keeper", lambda kept: lambda *_: kept.fill(0.5))
    plain, _ = matrices(query, gallery, k1=20, k2=6, lambda_value=0.3)
    assert (plain == 1).all() == bool(kept_bytes)  # a cosine of 0.5 is a distance of 1


COPIES = """
import numpy as np
from reid.retrieval.distance import euclidean_squared, l2_normalize
from tests.reranked import matrices
rng = np.random.default_rng(0)
query, gallery = (l2_normalize(rng.standard_normal((count, 256))) for count in (20, 1006))
gallery[503:] = gallery[:503]
for distance in (euclidean_squared(query, gallery), *matrices(query, gallery, k1=20, k2=6, lambda_value=0.3)):
    print((distance[:, :503] != distance[:, 503:]).sum())
"""


@pytest.mark.parametrize("kernel", core_types_here())
def test_an_image_that_is_there_twice_is_as_far_both_times_on_every_processor(kernel):
    # OpenBLAS's kernels for AVX2, "Haswell", put 708 of 10,060 copies a rounding apart
    done = subprocess.run(
        [sys.executable, "-c", COPIES],
        env=os.environ | ({"OPENBLAS_CORETYPE": kernel} if kernel else {}),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "0", "0"]


def test_float64_and_strided_embeddings_are_taken():
    query, gallery, _ = persons(np.random.default_rng(7), queries=4, gallery=60, width=32)
    vectors = np.concatenate([query, gallery])
    for other in (vectors.astype(np.float64), np.asfortranarray(vectors)):
        wanted, found = (next(both_rows(case, queries=4, k1=10, k2=3, lambda_value=0.3)) for case in (vectors, other))
        assert np.array_equal(found[1:], wanted[1:])


def test_the_forecast_grows_with_the_gallery_and_not_with_its_square():
    small, large = (forecast(3368, g, width=256, k1=20, k2=6) for g in (100_000, 1_000_000))
    assert large.memory_bytes < 11 * small.memory_bytes
    assert large.memory_bytes < 16e9
    assert 0 < large.product_seconds < large.seconds
    # (Q, G) float32 of Market-1501 alone is 214 MB
    assert 0.214e9 < forecast(3368, 15913, width=256, k1=20, k2=6).memory_bytes < 1e9
    assert forecast(3368, 100_000, width=2048, k1=20, k2=6).memory_bytes < 2.5e9


def test_mistaken_arguments_are_errors():
    one = np.ones((1, 1), np.float32)
    for queries, shape in ((0, (2, 1)), (2, (2, 1)), (1, (2, 0)), (1, (2,))):
        with pytest.raises(ValueError) as error:
            next(both_rows(np.ones(shape, np.float32), queries=queries, k1=20, k2=6, lambda_value=0.3))
        assert str(error.value) == (
            f"re-ranking: vectors {shape}, {queries} of them queries; want (N, D), at least one query and one other"
        )
    with pytest.raises(ValueError) as error:
        rerank(one, one, k1=0, k2=6, lambda_value=1.5)
    assert str(error.value) == (
        "re-ranking: k1 0, k2 6, lambda_value 1.5; want k1 >= 1, k2 >= 1, 0 <= lambda_value <= 1"
    )
