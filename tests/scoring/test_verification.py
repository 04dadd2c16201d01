import logging

import numpy as np
import pytest

from reid.embeddings import Embeddings
from reid.retrieval.threshold import Verification
from reid.scoring.ranking import score
from reid.scoring.verification import pair_counter, pair_histogram, roc_rows, threshold_rows
from tests.scoring.circle import DEVICE, GALLERY, QUERY, SETTINGS, on_a_circle


def judged(query: Embeddings, gallery: Embeddings) -> Verification:
    pairs = pair_counter(query, gallery)
    assert pairs is not None
    score(query, gallery, **SETTINGS, pairs=pairs)
    return pairs.verification()


def test_pairs_are_counted_by_distance_without_those_the_metric_ignores():
    pairs = pair_histogram(judged(QUERY, GALLERY))
    # 3 x 4 pairs less the own-camera pair of query 1; same person: query 1 at 60 degrees, query 2 at 60 degrees
    assert (pairs.genuine.sum(), pairs.impostor.sum()) == (2, 9)
    # both at 2 - 2 cos 60 = 1.0, of 80 steps up to 2 - 2 cos 180 = 4: step 19 or 20
    assert pairs.genuine[19] + pairs.genuine[20] == 2


def test_a_threshold_says_what_it_accepts_of_each_kind():
    # best F1 by hand: at 1.0 both genuine pairs are in, and of the impostors those at 0 (query 3 with the image of
    # person 1 at 0 degrees), at 30 degrees from 0 (queries 1 and 3), at 60 (query 3) and at 30 from 90 (query 2)
    rows = {row.name: row for row in threshold_rows(judged(QUERY, GALLERY))}
    best = rows["best F1"]
    assert best.distance == pytest.approx(1.0, abs=1e-3)
    assert best.true_match_rate == 1.0
    assert best.false_match_rate == pytest.approx(5 / 9)
    assert best.precision == pytest.approx(2 / 7)


def test_a_false_match_rate_of_less_than_one_pair_is_no_threshold():
    rows = threshold_rows(judged(QUERY, GALLERY))
    assert [row.name for row in rows] == ["best F1", "equal error"]  # 1 % of 9 pairs is none


@pytest.mark.parametrize(
    ("queries", "images"),
    [
        ([(1, 1, 0)], [(1, 2, 10), (1, 3, 20)]),
        ([(1, 1, 0), (0, 1, 40)], [(1, 2, 10), (1, 3, 20)]),  # a distractor as a query judges nothing
        ([(1, 1, 0)], [(1, 2, 10), (-1, 3, 20)]),
        ([(0, 1, 0)], [(1, 2, 10), (2, 3, 20)]),
    ],
)
def test_one_person_alone_gives_no_thresholds_but_a_warning(caplog, queries, images):
    with caplog.at_level(logging.WARNING):
        assert pair_counter(on_a_circle(*queries), on_a_circle(*images)) is None
    assert caplog.messages == [
        "no query of a known person is compared with an image of another; no threshold can be judged"
    ]


def test_a_distractor_in_the_gallery_is_another_person():
    assert judged(on_a_circle((1, 1, 0)), on_a_circle((1, 2, 10), (0, 3, 20))).different_person_pairs == 1


def test_the_verification_curve_is_thinned_evenly_and_keeps_both_ends():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 360, size=400)
    rows = [(person, camera, float(angle)) for person, camera, angle in zip(range(400), [0, 1] * 200, angles)]
    query = on_a_circle(*[(person % 20 + 1, 0, angle) for person, _, angle in rows[:100]])
    gallery = on_a_circle(*[(person % 20 + 1, 1, angle) for person, _, angle in rows[100:]])
    pairs = pair_counter(query, gallery)
    score(query, gallery, k1=20, k2=6, lambda_value=0.3, max_rank=10, **DEVICE, pairs=pairs)
    found = pairs.verification()
    assert len(found.thresholds) > 1000
    curve = roc_rows(found, points=100)
    assert 50 < len(curve) <= 100
    assert (curve[0].true_match_rate, curve[0].false_match_rate) == (0.0, 0.0)
    assert (curve[-1].true_match_rate, curve[-1].false_match_rate) == (1.0, 1.0)
    cosines = [row.cosine for row in curve]
    assert cosines == sorted(cosines, reverse=True)
    # no gap is longer than two even steps of a curve that is at most 2 long
    gaps = np.hypot(*np.diff([row[1:] for row in curve], axis=0).T)
    assert gaps.max() <= 2 * 2 / 98
