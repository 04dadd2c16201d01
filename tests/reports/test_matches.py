import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from reid.embeddings import Embeddings
from reid.reports.matches import MatchRow, choose_queries, hardest_queries, match_rows
from reid.retrieval.metrics import Scorer
from reid.retrieval.nearest import NearestFinder
from reid.retrieval.protocol import market_protocol


def images(*who: tuple[int, int]) -> Embeddings:
    """One image for each (person, camera)."""
    person, camera = np.array(who, np.int64).reshape(-1, 2).T
    paths = [f"/d/{p}_c{c}_{number}.jpg" for number, (p, c) in enumerate(who)]
    return Embeddings(paths, person, camera, np.zeros((len(who), 1), np.float32))


def row_of(distance: list[float], query: Embeddings, gallery: Embeddings, *, ranks: int) -> MatchRow:
    """The row of the one query."""
    protocol = market_protocol(
        query_person=query.person,
        query_camera=query.camera,
        gallery_person=gallery.person,
        gallery_camera=gallery.camera,
    )
    scorer, finder = Scorer(protocol, max_rank=10), NearestFinder(protocol, ranks=10)
    for reader in (scorer, finder):
        reader.add(0, np.array([distance], np.float32))
    (row,) = match_rows([(0, "best")], finder.found, scorer.scores(), queries=query, gallery=gallery, ranks=ranks)
    return row


def test_the_same_person_in_the_same_camera_and_junk_are_left_out_as_in_the_metric():
    query = images((7, 1))
    gallery = images((7, 1), (7, 2), (-1, 3), (0, 1), (8, 1))
    row = row_of([0.0, 0.9, 0.1, 0.5, 0.4], query, gallery, ranks=10)
    # by distance: 8 at 0.4, the distractor at 0.5, person 7 in camera 2 at 0.9
    assert [(match.person, match.camera, match.rank, match.correct) for match in row.matches] == [
        (8, 1, 1, False),
        (0, 1, 2, False),
        (7, 2, 3, True),
    ]
    assert [match.distance for match in row.matches] == np.float32([0.4, 0.5, 0.9]).tolist()
    assert row.first_match == row.matches[2]
    assert (row.reason, row.average_precision) == ("best", 1 / 3)


def test_the_first_right_image_is_known_even_beyond_the_ranks_shown():
    row = row_of([0.1, 0.2, 0.3], images((1, 1)), images((2, 2), (3, 2), (1, 2)), ranks=2)
    assert [match.person for match in row.matches] == [2, 3]
    assert (row.first_match.rank, row.first_match.path) == (3, "/d/1_c2_2.jpg")
    assert row.first_match.distance == np.float32(0.3)


def test_equal_distances_rank_by_index():
    row = row_of([0, 0, 0], images((1, 1)), images((2, 2), (1, 2), (3, 2)), ranks=3)
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
