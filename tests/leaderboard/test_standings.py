"""Means with intervals, shared ranks, and which pairs the seeds tell apart."""

from __future__ import annotations

import math

import pytest
from scipy import stats

from bench.leaderboard.standings import Estimate, estimate, pairs_of, shared_ranks
from bench.report.versus_random import margin_of


def test_an_estimate_is_that_of_students_t():
    values = [50.0, 52.0, 51.0, 55.0]
    found = estimate(values)
    low, high = stats.t.interval(0.95, 3, loc=52.0, scale=stats.sem(values))
    assert (found.mean, found.count) == (52.0, 4)
    assert found.deviation == pytest.approx(math.sqrt(14 / 3))
    assert (found.mean - found.margin, found.mean + found.margin) == pytest.approx((low, high), rel=1e-4)
    assert estimate([50.0]) == Estimate(50.0, None, None, 1) and estimate([]) is None


@pytest.mark.parametrize("count", [2, 3, 10, 11, 12, 40])
def test_quantiles_are_exact_and_beyond_the_table_on_the_safe_side(count):
    values = [float(number) for number in range(count)]
    exact = stats.t.ppf(0.975, count - 1) * stats.sem(values)
    if count <= 11:
        assert margin_of(values) == pytest.approx(exact, rel=4e-4)
    else:
        assert exact < margin_of(values) < 1.11 * exact


def interval(mean: float, margin: float | None) -> Estimate:
    return Estimate(mean, 1.0, margin, 3)


def test_methods_whose_intervals_overlap_share_a_rank():
    first, second, third, last = interval(60, 1), interval(58.5, 1), interval(57, 1), interval(50, 1)
    # The first and the third are apart, but the second reaches from one to the other.
    assert shared_ranks([last, second, third, first]) == [4, 1, 1, 1]
    assert shared_ranks([first, third]) == [1, 2]
    assert shared_ranks([first, interval(90, None), None]) == [1, None, None], "one seed has no interval"
    assert shared_ranks([interval(50, 0), interval(50, 0), interval(49, 0)]) == [1, 1, 3]


def test_a_pair_is_told_apart_by_the_differences_of_its_shared_seeds():
    # The seeds differ by ten points, the methods by one: paired, that is clear.
    strong = {0: 41.0, 1: 51.2, 2: 60.9, 7: 0.0}
    weak = {0: 40.0, 1: 50.0, 2: 60.0, 8: 99.0}
    (pair,) = pairs_of([weak, strong])
    assert (pair.better, pair.worse, pair.count) == (1, 0, 3)
    assert pair.gap == pytest.approx(3.1 / 3) and pair.is_told
    assert pair.margin == pytest.approx(4.303 * stats.tstd([1.0, 1.2, 0.9]) / math.sqrt(3))


def test_how_many_seeds_it_would_take():
    (pair,) = pairs_of([{0: 1.0, 1: 4.0}, {0: 0.0, 1: 1.0}])
    # Mean 2, deviation sqrt(2): with n seeds the margin is t(n - 1) sqrt(2 / n).
    needed = next(n for n in range(2, 100) if stats.t.ppf(0.975, n - 1) * math.sqrt(2 / n) < 2)
    assert not pair.is_told and pair.needed == needed == 5
    (equal,) = pairs_of([{0: 1.0, 1: 2.0}, {0: 2.0, 1: 1.0}])
    assert equal.needed is None
    (single,) = pairs_of([{0: 1.0}, {0: 90.0}])
    assert (single.margin, single.needed, single.is_told) == (None, None, False)
    assert pairs_of([{0: 1.0}, {1: 2.0}]) == []
