"""Whole numbers from shares against exact fractions."""

from __future__ import annotations

import doctest
import math
from fractions import Fraction

import pytest

from bench import rounding
from bench.rounding import share_down, share_nearest, share_up


def test_binary_fractions_are_undone() -> None:
    assert (int(0.29 * 100), share_down(0.29, 100)) == (28, 29)
    assert (math.ceil(0.07 * 100), share_up(0.07, 100)) == (8, 7)
    assert share_down(1 - 0.9, 10) == 1
    assert (math.floor(0.145 * 100 + 0.5), share_nearest(0.145, 100)) == (14, 15)


@pytest.mark.parametrize("count", [1, 7, 64, 100, 999, 26000])
def test_all_shares_in_thousandths_are_exact(count: int) -> None:
    for thousandths in range(1001):
        share, exact = thousandths / 1000, Fraction(thousandths * count, 1000)
        assert share_down(share, count) == math.floor(exact)
        assert share_up(share, count) == math.ceil(exact)
        assert share_nearest(share, count) == math.floor(exact + Fraction(1, 2))


def test_the_examples_are_true() -> None:
    assert doctest.testmod(rounding) == (0, 3)
