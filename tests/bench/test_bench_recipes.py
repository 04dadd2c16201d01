"""The table of recipes: intervals and verdicts by hand-worked numbers; the trainings themselves are run by hand."""

import math

import pytest

from tests.bench import bench_recipes as bench


def test_interval_is_students() -> None:
    middle, half = bench.interval([1.0, 2.0, 3.0])
    assert middle == 2.0
    assert half == pytest.approx(4.303 * 1.0 / math.sqrt(3))  # standard deviation 1, two degrees of freedom


def test_one_seed_shows_nothing() -> None:
    assert bench.interval([5.0]) == (5.0, math.inf)
    assert bench.verdict(5.0, math.inf) == "not shown"


def test_verdicts() -> None:
    assert [bench.verdict(*case) for case in ((2.0, 1.0), (-2.0, 1.0), (0.5, 1.0))] == ["helps", "harms", "not shown"]


def test_table_compares_seed_by_seed() -> None:
    plain = [{"mAP": value, "rank1": 0.5} for value in (0.10, 0.20, 0.30)]
    better = [{"mAP": row["mAP"] + 0.02, "rank1": 0.6} for row in plain]
    lines = bench.table({"plain": plain, "GeM": better}, {"plain": 9, "GeM": 8}, seconds=90).splitlines()
    assert lines[2] == "| plain | 9 | 20.0 | 50.0 | | | |"
    assert lines[3] == "| GeM | 8 | 22.0 | 60.0 | plain | +2.0 ± 0.0 | helps |"
