"""Whole numbers from shares of a count, free of binary fractions.

0.29 of 100 is 29, although `0.29 * 100` is 28.999999999999996.
"""

from __future__ import annotations

import math

_TINY = 1e-9
"""Far more than multiplication loses with any number of channels, and far less than a share that is meant."""


def share_down(share: float, count: int) -> int:
    """A share of a count, rounded down.

    >>> share_down(0.29, 100), share_down(0.299, 100)
    (29, 29)
    """
    return math.floor(share * count + _TINY)


def share_up(share: float, count: int) -> int:
    """A share of a count, rounded up.

    >>> share_up(0.07, 100), share_up(0.071, 100)
    (7, 8)
    """
    return math.ceil(share * count - _TINY)


def share_nearest(share: float, count: int) -> int:
    """A share of a count, rounded to the nearest whole number, half-way upwards.

    >>> share_nearest(0.3, 16), share_nearest(0.145, 100)
    (5, 15)
    """
    return math.floor(share * count + 0.5 + _TINY)
