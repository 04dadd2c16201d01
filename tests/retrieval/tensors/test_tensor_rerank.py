"""The tensor functions on the CPU's tensors: the same code that a GPU runs."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reid.retrieval import distance
from reid.retrieval.copies import Copies
from reid.retrieval.distance import euclidean_squared, l2_normalize
from reid.retrieval.knn import nearest_neighbours as numpy_neighbours
from reid.retrieval.tensors import exactness
from reid.retrieval.tensors.exactness import copies_among, float32_products, padded, squared_distances
from reid.retrieval.tensors.knn import nearest_neighbours
from reid.retrieval.tensors.rerank import both_rows, memory_bytes
from tests import reference, reranked
from tests.reranked import textbook, tolerance

# 24 directions of length 1 whose distances are exact in float32, so that ties are ties
DIRECTIONS = np.concatenate([np.eye(4), -np.eye(4), 0.5 * np.array(list(itertools.product([1, -1], repeat=4)))])
TOLERANCE = 1e-6  # float32 sums of products and of weights
PARAMETERS = st.fixed_dictionaries(
    {"k1": st.integers(1, 60), "k2": st.integers(1, 12), "lambda_value": st.sampled_from([0, 0.3, 0.77, 1])}
)


def tensors(*arrays):
    return [torch.from_numpy(np.ascontiguousarray(array, np.float32)) for array in arrays]


def matrices(query, gallery, **parameters):
    """Plain and final distances (Q, G), through tensors."""
    return reranked.matrices(
        query, gallery, lambda vectors, **known: both_rows(*tensors(vectors), **known), **parameters
    )


def persons(seed, *, queries, gallery, width):
    rng = np.random.default_rng(seed)
    centre = rng.standard_normal((max(2, (queries + gallery) // 12), width))
    person = rng.integers(0, len(centre), queries + gallery)
    vectors = l2_normalize(centre[person] + 1.2 * rng.standard_normal((queries + gallery, width)))
    return vectors[:queries], vectors[queries:]


@pytest.fixture
def small_blocks(monkeypatch):
    monkeypatch.setattr(exactness, "BLOCK_BYTES", 1 << 14)


@settings(deadline=None, max_examples=100)
@given(
    query=st.lists(st.integers(0, 23), min_size=1, max_size=8),
    gallery=st.lists(st.integers(0, 23), min_size=1, max_size=40),
    parameters=PARAMETERS,
    block=st.sampled_from([1, 2000, 1 << 28]),
)
def test_duplicates_ties_and_any_k_give_the_textbook_distance(query, gallery, parameters, block):
    query, gallery = DIRECTIONS[query].astype(np.float32), DIRECTIONS[gallery].astype(np.float32)
    if (np.concatenate([query, gallery]) == query[0]).all():
        return  # one point: the textbook divides 0 by 0; see below
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "BLOCK_BYTES", block)
        plain, found = matrices(query, gallery, **parameters)
    assert np.abs(found - textbook(query, gallery, **parameters)).max() < TOLERANCE
    assert np.array_equal(plain, euclidean_squared(query, gallery))


@settings(deadline=None, max_examples=50)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 10),
    gallery=st.integers(1, 80),
    width=st.sampled_from([2, 3, 17, 64, 257]),
    parameters=PARAMETERS,
)
def test_persons_give_the_distances_of_the_other_implementation_and_of_the_textbook(
    seed, queries, gallery, width, parameters
):
    query, gallery = persons(seed, queries=queries, gallery=gallery, width=width)
    found = matrices(query, gallery, **parameters)[1]
    allowed = tolerance(query, gallery)
    assert np.abs(found - reranked.rerank(query, gallery, **parameters)).max() < allowed
    assert np.abs(found - textbook(query, gallery, **parameters)).max() < allowed


@pytest.mark.parametrize("width", [256, 2048])
def test_a_gallery_of_many_blocks_gives_the_distances_of_the_other_implementation(monkeypatch, width):
    monkeypatch.setattr(exactness, "BLOCK_BYTES", 1 << 20)
    monkeypatch.setattr(distance, "BLOCK_BYTES", 4 * 900 * 20)
    query, gallery = persons(5, queries=70, gallery=900, width=width)
    (vectors,) = tensors(np.concatenate([query, gallery]))
    wanted = reranked.rerank(query, gallery, k1=20, k2=6, lambda_value=0.3)
    starts = []
    for first, _, block in both_rows(vectors, queries=70, k1=20, k2=6, lambda_value=0.3):
        starts.append(first)
        assert np.abs(block.numpy() - wanted[first : first + len(block)]).max() < TOLERANCE
    assert starts == [0, 20, 40, 60]


@pytest.mark.parametrize("width", [32, 33])
def test_an_image_that_is_there_twice_is_as_far_both_times(monkeypatch, width):
    rng = np.random.default_rng(1)
    query, gallery = (l2_normalize(rng.standard_normal((count, width))) for count in (5, 200))
    gallery[100:] = gallery[:100]
    product = torch.Tensor.__matmul__

    def uneven(one, other):  # as AVX2's product is: equal columns a rounding apart
        found = product(one, other)
        return found + 1.2e-7 * (torch.arange(found.shape[1]) % 3)

    monkeypatch.setattr(torch.Tensor, "__matmul__", uneven)
    for found in matrices(query, gallery, k1=10, k2=3, lambda_value=0.3):
        assert np.array_equal(found[:, :100], found[:, 100:])


@settings(deadline=None, max_examples=60)
@given(picks=st.lists(st.integers(0, 7), max_size=40), block=st.sampled_from([1, 40, 1 << 28]))
def test_copies_are_those_that_the_other_implementation_finds(picks, block):
    rows = np.array([[0, 1, 2], [-0.0, 1, 2], [0, -1, 2], [2, 1, 0], [1, 0, 2], [0, 0, 0], [0, 1, -2], [0, 1, 3]])
    vectors = rows[picks].astype(np.float32).reshape(-1, 3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exactness, "BLOCK_BYTES", block)
        found = copies_among(*tensors(vectors))
    assert [rows.tolist() for rows in found] == [rows.tolist() for rows in Copies.among(vectors)]


def test_vectors_are_filled_up_to_a_multiple_of_four_with_zeros():
    assert padded(torch.ones(1, 5)).tolist() == [[1, 1, 1, 1, 1, 0, 0, 0]]
    assert padded(torch.ones(1, 4)).tolist() == [[1, 1, 1, 1]]


@pytest.mark.parametrize("block", [1 << 12, 1 << 28])
def test_copies_of_one_image_are_neighbours_by_index(monkeypatch, block):
    monkeypatch.setattr(exactness, "BLOCK_BYTES", block)
    rng = np.random.default_rng(2)
    vectors = l2_normalize(rng.standard_normal((300, 24)))
    vectors[rng.permutation(300)[:80]] = vectors[0]
    found = nearest_neighbours(*tensors(vectors), count=21)
    wanted = numpy_neighbours(vectors, count=21)
    assert wanted.crowded.sum() >= 80
    assert np.array_equal(found.nearest.numpy(), wanted.nearest)
    assert np.abs(found.farthest.numpy() - wanted.farthest).max() < 2e-6


def test_nearly_equal_embeddings_of_an_untrained_network_are_told_apart():
    vectors = l2_normalize(1 + 1e-3 * np.random.default_rng(3).standard_normal((400, 64)))
    distance = reference.squared_euclidean(vectors, vectors)
    found = nearest_neighbours(*tensors(vectors), count=10).nearest.numpy()
    assert np.array_equal(found, np.argsort(distance, axis=1, kind="stable")[:, :10])


@settings(deadline=None, max_examples=40)
@given(picks=st.lists(st.integers(0, 23), min_size=1, max_size=60), count=st.integers(1, 70))
def test_ties_go_by_index(picks, count):
    vectors = DIRECTIONS[picks].astype(np.float32)
    distance = reference.squared_euclidean(vectors, vectors)
    found = nearest_neighbours(*tensors(vectors), count=count)
    assert np.array_equal(found.nearest.numpy(), np.argsort(distance, axis=1, kind="stable")[:, :count])
    assert np.array_equal(found.farthest.numpy(), distance.max(axis=1).astype(np.float32))


def test_one_point_only_has_no_nan():
    _, found = matrices(np.ones((2, 1)), np.ones((3, 1)), k1=20, k2=6, lambda_value=0.3)
    assert np.abs(found).max() < TOLERANCE


def test_lambda_one_is_the_original_distance_over_the_greatest():
    # from e1: e2 at 2, -e1 at 4, so 0.5 and 1
    _, found = matrices([[1.0, 0]], [[0.0, 1], [-1, 0]], k1=20, k2=6, lambda_value=1)
    assert found.tolist() == [[0.5, 1]]


def test_the_pairs_distances_do_not_depend_on_the_block(monkeypatch):
    vectors = tensors(l2_normalize(np.random.default_rng(8).standard_normal((50, 33))))[0]
    row, column = torch.arange(50).repeat_interleave(50), torch.arange(50).repeat(50)
    whole = squared_distances(vectors, row, column)
    assert torch.equal(whole.view(50, 50).diagonal(), torch.zeros(50, dtype=torch.float64))
    monkeypatch.setattr(exactness, "BLOCK_BYTES", 24 * 33 * 7)
    assert (squared_distances(vectors, row, column) - whole).abs().max() < 1e-14


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_products_are_whole_float32_even_if_a_training_rounds_them(device):
    a = torch.rand(64, 64, generator=torch.Generator().manual_seed(0))
    products = {"cpu": torch.backends.mkldnn.matmul, "cuda": torch.backends.cuda.matmul}[device]
    torch.set_float32_matmul_precision("medium")
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16), float32_products(torch.device(device)):
            assert products.fp32_precision == "ieee"
            product = a @ a if device == "cpu" else None
        assert products.fp32_precision == {"cpu": "bf16", "cuda": "tf32"}[device]
    finally:
        torch.set_float32_matmul_precision("highest")
    if product is not None:
        assert product.dtype == torch.float32
        assert (product - (a.double() @ a.double())).abs().max() < 1e-4  # 64 roundings


def test_embeddings_with_a_gradient_in_half_precision_are_taken():
    (vectors,) = tensors(DIRECTIONS[[0, 9, 1, 2, 3, 10, 20]])
    _, *wanted = next(both_rows(vectors, queries=2, k1=3, k2=2, lambda_value=0.3))
    _, *found = next(both_rows(vectors.half().requires_grad_(), queries=2, k1=3, k2=2, lambda_value=0.3))
    for ours, theirs in zip(found, wanted, strict=True):
        assert torch.equal(ours, theirs)
        assert not ours.requires_grad


def test_the_forecast_of_memory_grows_with_the_gallery_and_not_with_its_square():
    small, large = (memory_bytes(3368, g, width=256, k1=20, k2=6) for g in (100_000, 1_000_000))
    assert large < 10 * small
    assert large < 16e9
    # 3 more values a vector, and a second copy of them all that has a multiple of 4
    wider = memory_bytes(3368, 100_000, width=259, k1=20, k2=6)
    assert wider - small == 4 * (2 * 259 - 256) * 103_368


def test_mistaken_arguments_are_errors():
    with pytest.raises(ValueError) as error:
        next(both_rows(torch.ones(2, 1), queries=2, k1=20, k2=6, lambda_value=0.3))
    assert str(error.value) == (
        "re-ranking: vectors (2, 1), 2 of them queries; want (N, D), at least one query and one other"
    )
    with pytest.raises(ValueError) as error:
        next(both_rows(torch.ones(2, 1), queries=1, k1=0, k2=6, lambda_value=1.5))
    assert str(error.value) == (
        "re-ranking: k1 0, k2 6, lambda_value 1.5; want k1 >= 1, k2 >= 1, 0 <= lambda_value <= 1"
    )
    with pytest.raises(ValueError) as error:
        next(both_rows(torch.tensor([[1.0], [2.0]]), queries=1, k1=1, k2=1, lambda_value=0))
    assert str(error.value) == "vectors: 1 of 2 do not have length 1; first: row 1, length 2; l2_normalize them"
