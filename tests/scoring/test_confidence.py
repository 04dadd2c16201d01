"""Intervals by a bootstrap over persons."""

import numpy as np
import pytest

from reid.errors import DatasetError
from reid.scoring.confidence import difference_interval, mean_interval


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
