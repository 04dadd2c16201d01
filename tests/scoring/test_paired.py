import itertools

import numpy as np
import pytest

from reid.errors import DatasetError
from reid.scoring.paired import FLIPS, difference, differences, sign_flips
from reid.scoring.per_query import PerQuery, RankedQueries
from reid.scoring.same_queries import same_queries


def table(precision, *, person=None, rank=None, paths=None, camera=None) -> PerQuery:
    """A table whose two rankings are the same; the first match has rank 1 unless `rank` says another one."""
    precision = np.asarray(precision, float)
    found = np.where(np.isnan(precision), 0, 1) if rank is None else np.asarray(rank)
    count = len(precision)
    ranked = RankedQueries(precision, found, ["g.jpg"] * count, np.ones(count, int))
    return PerQuery(
        paths or [f"/data/query/{number}.jpg" for number in range(count)],
        np.arange(count) if person is None else np.asarray(person),
        np.ones(count, int) if camera is None else np.asarray(camera),
        {"plain": ranked, "reranked": ranked},
    )


def test_a_steady_gain_is_better_a_steady_loss_worse_and_a_mixture_neither():
    before = np.linspace(0.1, 0.5, 30)
    mixed = np.where(np.arange(30) % 2, 0.1, -0.1)
    said = [
        difference(table(before), table(before + change), "mAP", seed=0)
        for change in (np.full(30, 0.031), np.full(30, -0.031), mixed)
    ]
    assert [one.standing for one in said] == [1, -1, 0]
    assert said[0].in_words() == "B is better: mAP +3.10 (+3.10 to +3.10)"
    assert said[1].in_words() == "B is worse: mAP -3.10 (-3.10 to -3.10)"
    assert said[2].in_words().startswith("no difference shown: mAP +0.00 (-")
    assert said[0].chance == said[1].chance == pytest.approx(1 / (FLIPS + 1))
    assert said[2].chance == 1


def test_a_gain_on_one_person_with_many_queries_is_no_evidence():
    # 100 queries of one person gain, the other 19 persons stay: over queries it is certain, over persons it is not
    person = np.concatenate([np.zeros(100, int), np.arange(1, 20)])
    change = np.where(person == 0, 0.2, 0.0)
    found = difference(table(np.full(119, 0.5), person=person), table(0.5 + change, person=person), "mAP", seed=0)
    assert found.interval.low == 0
    assert found.standing == 0
    assert found.chance == 1  # one person: either sign is as large


def test_three_persons_who_gain_are_no_evidence_if_all_others_stay_as_they_are():
    # all three would gain, or all three lose, in 2 of 8 cases; the interval knows nothing of that
    after = table(np.full(40, 0.5), rank=np.where(np.arange(40) < 19, 1, 2))
    found = difference(table(np.full(40, 0.5), rank=np.where(np.arange(40) < 16, 1, 2)), after, "rank1", seed=0)
    assert found.interval.low > 0
    assert found.chance == pytest.approx(0.25, abs=0.02)
    assert found.in_words().startswith("no difference shown: rank-1 +7.50 (+2.50 to +")
    assert found.in_words().endswith(f", but p is {found.chance:.2g})")


def test_of_five_persons_nothing_is_shown_even_if_all_gain():
    # if both models were equally good, all five would gain or all five lose in 2 of 32 cases
    gain = np.linspace(0.1, 0.2, 6)
    found = [difference(table(np.zeros(few)), table(gain[:few]), "mAP", seed=0) for few in (2, 5, 6)]
    assert [one.interval.low > 0 for one in found] == [True, True, True]
    assert [one.standing for one in found] == [0, 0, 1]
    assert found[1].in_words().startswith("no difference shown: mAP +14.00 (+1")


def unequal_persons(rng: np.random.Generator, persons: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """person (Q,), and the average precision (Q,) of two equally good models: other persons are hard for each."""
    person = np.repeat(np.arange(persons), rng.integers(1, 9, persons))
    ease = rng.normal(1.0, 1.5, persons)[person] + rng.normal(0, 0.8, len(person))
    own = [ease + rng.normal(0, 0.7, persons)[person] + rng.normal(0, 0.5, len(person)) for _ in "ab"]
    return person, *(1 / (1 + np.exp(-2 * one)) for one in own)


@pytest.mark.slow
@pytest.mark.parametrize("persons", [10, 60])
def test_of_two_equally_good_models_one_is_better_in_one_of_forty_cases(persons):
    rng, tries, standings = np.random.default_rng(1), 400, []
    for _ in range(tries):
        person, first, second = unequal_persons(rng, persons)
        found = difference(table(first, person=person), table(second, person=person), "mAP", seed=0)
        standings.append(found.standing)
    # 400 tries know a share of 0.025 to 0.008; three deviations
    assert standings.count(1) / tries == pytest.approx(0.025, abs=0.024)
    assert standings.count(-1) / tries == pytest.approx(0.025, abs=0.024)


def test_sign_flips_are_the_share_of_all_sign_patterns():
    # sums of three persons 3, 2, 1: of 8 patterns only +++ and --- reach 6
    share = sign_flips(np.array([1.0, 2.0, 2.0, 1.0]), np.array([0, 0, 1, 2]), seed=0)
    sums = [
        abs(sum(sign * value for sign, value in zip(signs, (3, 2, 1))))
        for signs in itertools.product((1, -1), repeat=3)
    ]
    assert share == pytest.approx(sum(value >= 6 for value in sums) / 8, abs=0.02)


def test_rank_1_counts_queries_with_a_match_and_unmatched_ones_count_in_nothing():
    before = table([0.5, 0.5, np.nan], rank=[2, 1, 0])
    after = table([0.5, 0.5, np.nan], rank=[1, 1, 0])
    found = {one.name: one for one in differences(before, after, seed=0)}
    assert list(found) == ["mAP", "rank1", "reranked_mAP", "reranked_rank1"]
    assert (found["rank1"].first, found["rank1"].second) == (0.5, 1.0)
    assert found["rank1"].interval.persons == 2
    assert found["reranked_rank1"].in_words().startswith("no difference shown: re-ranked rank-1 +50.00 (")


def test_the_same_queries_are_found_wherever_they_lie_and_in_any_order_with_any_numbers():
    first = table([0.1, 0.2, 0.3], paths=["/a/q/x.jpg", "/a/q/y.jpg", "/a/q/z.jpg"], person=[7, 7, 9])
    second = table([0.6, 0.4, 0.5], paths=["/b/q/z.jpg", "/b/q/x.jpg", "/b/q/y.jpg"], person=[2, 1, 1])
    same = same_queries(first, second)
    assert same.second.rankings["plain"].average_precision.tolist() == [0.4, 0.5, 0.6]
    assert same.second.paths == ["/b/q/x.jpg", "/b/q/y.jpg", "/b/q/z.jpg"]


def test_other_queries_other_persons_and_other_cameras_are_refused_and_counted():
    first = table([0.1, 0.2, 0.3], paths=["/a/q/x.jpg", "/a/q/y.jpg", "/a/q/z.jpg"])
    other = table([0.1, 0.2], paths=["/a/q/x.jpg", "/a/q/w.jpg"])
    with pytest.raises(DatasetError) as caught:
        same_queries(first, other)
    assert str(caught.value) == (
        "A and B were not measured on the same queries: 2 of A's 3 are not in B, 1 of B's 2 are not in A\n"
        "  only in A: y.jpg\n  only in B: w.jpg\n  want: two evaluations of the same query images"
    )
    for change in ({"person": [0, 1, 1]}, {"camera": [1, 2, 1]}):
        with pytest.raises(DatasetError, match="A and B have other persons or cameras on 1 of 3 queries"):
            same_queries(first, table([0.1, 0.2, 0.3], paths=first.paths, **change))
