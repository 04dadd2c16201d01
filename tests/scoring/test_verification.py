import dataclasses
import logging
import math

import numpy as np
import pytest

from reid.embeddings import Embeddings
from reid.retrieval.threshold import Verification
from reid.scoring.ranking import score
from reid.scoring.verification import RocRow, pair_counter, pair_histogram, roc_rows, threshold_rows
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


def furthest_from(curve, found: Verification) -> float:
    """The largest distance of the full curve from the lines between these points, by the false match rate."""
    rates = np.array([row[1:] for row in curve])  # (P, 2) true, false
    drawn = np.interp(found.false_match_rate, rates[:, 1], rates[:, 0])
    across = np.interp(found.true_match_rate, rates[:, 0], rates[:, 1])
    # the smaller of the gaps up and across bounds the distance from above
    gaps = np.minimum(np.abs(drawn - found.true_match_rate), np.abs(across - found.false_match_rate))
    return float(gaps.max())


def smooth(separation: float, count: int = 20_001) -> Verification:
    """The curve of two normal distributions of distances, `separation` standard deviations apart."""
    at = np.linspace(-5, 5 + separation, count)
    rates = [np.array([0.5 * math.erfc((shift - x) / math.sqrt(2)) for x in at]) for shift in (0.0, separation)]
    for rate in rates:
        rate[0], rate[-1] = 0.0, 1.0
    empty = dict.fromkeys((field.name for field in dataclasses.fields(Verification)), 0.0)
    given = {"thresholds": at, "true_match_rate": rates[0], "false_match_rate": rates[1]}
    return Verification(**{**empty, **given})


@pytest.mark.parametrize("separation", [0.5, 1.5, 3.0, 5.0])
def test_fifty_points_of_a_smooth_curve_lose_less_than_a_thousandth(separation: float) -> None:
    found = smooth(separation)
    curve = roc_rows(found, points=50)
    assert 2 < len(curve) <= 50
    assert furthest_from(curve, found) < 1e-3
    even = [int(at) for at in np.linspace(0, len(found.thresholds) - 1, 50)]
    thinned = [RocRow(0.0, found.true_match_rate[at], found.false_match_rate[at]) for at in even]
    assert furthest_from(curve, found) < furthest_from(thinned, found)


def test_a_curve_of_one_step_is_its_ends_and_its_corner() -> None:
    found = smooth(40.0)
    rates = [row[1:] for row in roc_rows(found, points=50)]
    assert rates == [(0.0, 0.0), (pytest.approx(1, abs=1e-3), pytest.approx(0, abs=1e-3)), (1.0, 1.0)]


def test_the_verification_curve_is_thinned_by_its_bends_and_keeps_both_ends():
    rng = np.random.default_rng(0)
    angles = rng.uniform(0, 360, size=400)
    rows = [(person, camera, float(angle)) for person, camera, angle in zip(range(400), [0, 1] * 200, angles)]
    query = on_a_circle(*[(person % 20 + 1, 0, angle) for person, _, angle in rows[:100]])
    gallery = on_a_circle(*[(person % 20 + 1, 1, angle) for person, _, angle in rows[100:]])
    pairs = pair_counter(query, gallery)
    score(query, gallery, k1=20, k2=6, lambda_value=0.3, max_rank=10, **DEVICE, pairs=pairs)
    found = pairs.verification()
    assert len(found.thresholds) > 1000
    curve = roc_rows(found, points=50)
    assert len(curve) == 50  # of random angles: a staircase, which is never straight
    assert (curve[0].true_match_rate, curve[0].false_match_rate) == (0.0, 0.0)
    assert (curve[-1].true_match_rate, curve[-1].false_match_rate) == (1.0, 1.0)
    cosines = [row.cosine for row in curve]
    assert cosines == sorted(cosines, reverse=True)
    assert furthest_from(curve, found) < 0.01  # of a staircase whose steps are 1 / 150 of the same-person pairs high
