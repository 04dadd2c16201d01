import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reid.embeddings import Embeddings
from reid.matches import choose_queries, counted, hardest_queries, match_row


def images(*who: tuple[int, int]) -> Embeddings:
    """One image for each (person, camera)."""
    person, camera = np.array(who, np.int64).reshape(-1, 2).T
    paths = [f"/d/{p}_c{c}_{number}.jpg" for number, (p, c) in enumerate(who)]
    return Embeddings(paths, person, camera, np.zeros((len(who), 1), np.float32))


def test_the_same_person_in_the_same_camera_and_junk_are_left_out_as_in_the_metric():
    query = images((7, 1))
    gallery = images((7, 1), (7, 2), (-1, 3), (0, 1), (8, 1))
    assert counted(0, query, gallery).tolist() == [False, True, False, True, True]
    row = match_row(
        0,
        np.array([0.0, 0.9, 0.1, 0.5, 0.4], np.float32),
        reason="best",
        average_precision=1 / 3,
        queries=query,
        gallery=gallery,
        ranks=10,
    )
    # by distance: 8 at 0.4, the distractor at 0.5, person 7 in camera 2 at 0.9
    assert [(match.person, match.camera, match.rank, match.correct) for match in row.matches] == [
        (8, 1, 1, False),
        (0, 1, 2, False),
        (7, 2, 3, True),
    ]
    assert (row.first_match.rank, row.first_match.path) == (3, "/d/7_c2_1.jpg")


def test_the_first_right_image_is_known_even_beyond_the_ranks_shown():
    query, gallery = images((1, 1)), images((2, 2), (3, 2), (1, 2))
    distance = np.array([0.1, 0.2, 0.3], np.float32)
    row = match_row(0, distance, reason="", average_precision=1 / 3, queries=query, gallery=gallery, ranks=2)
    assert [match.person for match in row.matches] == [2, 3]
    assert row.first_match.rank == 3


def test_equal_distances_rank_by_index():
    query, gallery = images((1, 1)), images((2, 2), (1, 2), (3, 2))
    row = match_row(
        0, np.zeros(3, np.float32), reason="", average_precision=0.5, queries=query, gallery=gallery, ranks=3
    )
    assert [match.person for match in row.matches] == [2, 1, 3]


def test_ten_rows_are_three_best_three_random_and_four_hardest():
    precision = np.arange(20) / 20
    chosen = choose_queries(precision, count=10, rng=np.random.default_rng(0))
    assert [reason for _, reason in chosen] == ["best"] * 3 + ["random"] * 3 + ["hardest"] * 4
    assert [query for query, _ in chosen[:3]] == [19, 18, 17]
    assert [query for query, _ in chosen[6:]] == [3, 2, 1, 0]
    assert len({query for query, _ in chosen}) == 10


@given(
    precision=st.lists(st.one_of(st.just(float("nan")), st.floats(0, 1)), max_size=30),
    count=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_chosen_queries_are_distinct_valid_and_the_same_for_a_seed(precision, count, seed):
    values = np.array(precision, float)
    chosen = choose_queries(values, count=count, rng=np.random.default_rng(seed))
    queries = [query for query, _ in chosen]
    assert len(set(queries)) == len(queries) == min(count, int(np.isfinite(values).sum()))
    assert np.isfinite(values[queries]).all()
    assert chosen == choose_queries(values, count=count, rng=np.random.default_rng(seed))


def test_hardest_queries_come_lowest_first_and_skip_those_without_a_match():
    precision = np.array([0.5, np.nan, 0.1, 0.1, 0.9])
    assert hardest_queries(precision, count=3) == [(2, "hardest"), (3, "hardest"), (0, "hardest")]
