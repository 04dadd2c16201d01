"""Intervals by a bootstrap over persons."""

import math
import time
import tracemalloc

import numpy as np
import pytest
from scipy import stats

from reid.errors import DatasetError
from reid.scoring.confidence import difference_interval, mean_interval, share_interval


def test_all_equal_values_leave_no_doubt() -> None:
    found = mean_interval(np.full(6, 0.25), np.array([1, 1, 2, 2, 3, 3]), seed=0)
    assert (found.value, found.low, found.high, found.persons) == (0.25, 0.25, 0.25, 3)


def test_the_interval_of_persons_is_that_of_their_means() -> None:
    # 200 persons of one query each, 0 or 1 with equal chance: the mean's deviation is sqrt(1/4 / 200) = 0.0354
    value = np.repeat([0.0, 1.0], 100)
    found = mean_interval(value, np.arange(200), seed=0)
    assert found.value == 0.5
    # 1.96 deviations; 2,000 draws know a quantile to about 0.003
    assert found.low == pytest.approx(0.5 - 1.96 * 0.0354, abs=0.008)
    assert found.high == pytest.approx(0.5 + 1.96 * 0.0354, abs=0.008)


def test_more_queries_of_the_same_persons_say_nothing_new() -> None:
    value, person = np.tile([0.0, 1.0], 20), np.arange(40)
    one = mean_interval(value, person, seed=0)
    ten = mean_interval(np.repeat(value, 10), np.repeat(person, 10), seed=0)
    assert (one.low, one.high) == pytest.approx((ten.low, ten.high), abs=1e-12)  # sums in another order


def test_a_query_without_a_match_counts_in_nothing() -> None:
    value, person = np.array([0.5, np.nan, 1.0]), np.array([1, 2, 3])
    found = mean_interval(value, person, seed=0)
    assert (found.value, found.persons) == (0.75, 2)
    with pytest.raises(DatasetError, match=r"^confidence: none of 2 queries has a value"):
        mean_interval(np.full(2, np.nan), np.array([1, 2]), seed=0)


def test_a_small_gain_on_every_person_is_more_than_chance() -> None:
    rng = np.random.default_rng(3)
    before = rng.uniform(0, 1, 120)
    person = np.arange(120) // 3
    after = np.clip(before + 0.02, 0, None)
    gain = difference_interval(after, before, person, seed=0)
    assert gain.low == pytest.approx(0.02) and gain.high == pytest.approx(0.02)  # paired: no doubt
    apart = mean_interval(after, person, seed=0)
    assert apart.low < before.mean() < apart.high  # unpaired: nothing could be told


def test_a_person_of_many_queries_weighs_as_much_as_in_the_figure() -> None:
    # person 1 has three queries of 0.9, person 2 one of 0.1: the mean over queries is 0.7, that over persons 0.5
    found = mean_interval(np.array([0.9, 0.9, 0.9, 0.1]), np.array([1, 1, 1, 2]), seed=0)
    assert found.value == pytest.approx(0.7)
    assert (found.low, found.high) == pytest.approx((0.1, 0.9))  # both draws of one person alone are likely


def test_of_one_person_nothing_can_be_said() -> None:
    found = mean_interval(np.array([0.2, 0.4]), np.array([7, 7]), seed=0)
    assert (found.value, found.persons, found.known, found.few) == (pytest.approx(0.3), 1, False, True)
    assert math.isnan(found.low) and math.isnan(found.high)
    assert (found.in_percent, found.metrics("mAP")) == ("30.0", {})


def test_a_share_of_persons_who_are_all_right_is_still_in_doubt() -> None:
    # if 0.265 of all persons were wrong, none of them would be among 12 with probability 0.735^12 = 0.025
    found = share_interval(np.ones(24), np.arange(24) // 2, seed=0)
    assert (found.low, found.high) == (pytest.approx(0.735, abs=0.001), 1.0)
    value, person = np.array([0.2, 0.4, 0.9]), np.array([1, 2, 3])
    assert share_interval(value, person, seed=0) == mean_interval(value, person, seed=0)
    assert not share_interval(np.ones(2), np.array([7, 7]), seed=0).known


def test_an_interval_in_the_words_of_a_report() -> None:
    found = mean_interval(np.repeat([0.25, 0.75], 30), np.arange(60), seed=0)
    assert found.in_percent == f"50.0 ({100 * found.low:.1f}\u2013{100 * found.high:.1f})"
    assert found.metrics("mAP", "_shop") == {"mAP_low_shop": found.low, "mAP_high_shop": found.high}
    assert not found.few


def test_a_skewed_figure_has_a_skewed_interval() -> None:
    # 38 of 40 persons right: there is more room below 0.95 than above it
    found = mean_interval(np.repeat([1.0, 0.0], [38, 2]), np.arange(40), seed=0)
    assert found.value - found.low > 2 * (found.high - found.value) > 0


def test_msmt17_takes_a_fraction_of_a_second_and_little_memory() -> None:
    rng = np.random.default_rng(0)
    value, person = rng.random(11_659), rng.integers(0, 3_060, 11_659)
    tracemalloc.start()
    started = time.process_time()
    mean_interval(value, person, seed=0)
    seconds, (_, most) = time.process_time() - started, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert seconds < 1.0  # 0.1 s on one core of 2026
    assert most < 64 << 20


@pytest.mark.parametrize("persons", [15, 60])
def test_the_interval_is_that_of_scipy_with_students_quantile(persons: int) -> None:
    rng = np.random.default_rng(persons)
    queries = rng.integers(1, 9, persons)
    person = np.repeat(np.arange(persons), queries)
    value = rng.beta(2, 0.5, persons)[person] * rng.beta(4, 1, len(person))
    reach = math.sqrt(persons / (persons - 1)) * stats.t.ppf(0.975, persons - 1)
    theirs = stats.bootstrap(
        (np.bincount(person, weights=value), queries.astype(float)),
        lambda total, count, axis=-1: total.sum(axis=axis) / count.sum(axis=axis),
        paired=True,
        n_resamples=20_000,
        confidence_level=2 * stats.norm.cdf(reach) - 1,
        method="BCa",
        random_state=1,
    ).confidence_interval
    ours = mean_interval(value, person, seed=0, draws=20_000)
    # by other seeds, each of the ends moves by up to 1.5 % of the width with so many draws
    assert (theirs.low, theirs.high) == pytest.approx((ours.low, ours.high), abs=0.03 * (ours.high - ours.low))


@pytest.mark.slow
@pytest.mark.parametrize("persons", [12, 60])
@pytest.mark.parametrize("figure", ["mAP", "rank-1", "difference"])
def test_the_true_figure_lies_in_95_of_100_intervals(figure: str, persons: int) -> None:
    # persons differ, their queries are of unequal number, and those of one person are alike
    rng, tries, inside = np.random.default_rng(5), 200, 0
    for _ in range(tries):
        queries = rng.integers(1, 9, persons)
        person = np.repeat(np.arange(persons), queries)
        if figure == "mAP":
            truth, value = 0.5, rng.beta(1.5, 1.5, persons)[person]
        elif figure == "rank-1":
            truth, value = 5 / 5.6, (rng.random(len(person)) < rng.beta(5, 0.6, persons)[person]).astype(float)
        else:
            truth, value = 0.0, rng.normal(0, 0.1, persons)[person] + rng.normal(0, 0.1, len(person))
        found = mean_interval(value, person, seed=0)
        inside += found.low <= truth <= found.high
    # 200 tries know a share of 0.95 to 0.015; 0.04 is 2.6 deviations
    assert inside / tries == pytest.approx(0.95, abs=0.04)
