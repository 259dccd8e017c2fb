"""What the channels of a group are worth where scores only rank them, from what it lost when it was pruned alone.

A curve has few points: after so many channels of a group, so much was lost. Its lower convex hull is taken, because
channels go from the least to the most important and each must be worth at least as much as the one before; a loss
that falls while channels go is noise of the measurement.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np


def channel_losses(points: Iterable[tuple[int, float]], channels: int) -> np.ndarray:
    """What is lost with the first channel that goes, with the second, and so on.

    >>> channel_losses([(2, 1.0), (4, 5.0)], 6).tolist()
    [0.5, 0.5, 2.0, 2.0, 2.0, 2.0]

    Args:
        points: (channels removed, loss), in any order; removing none loses nothing. Behind the last one the curve
            goes on as steeply.
        channels: how many there are.

    Returns:
        float64 [channels], ascending, at least 0.
    """
    known = sorted({0: 0.0, **{count: max(0.0, loss) for count, loss in points if count}}.items())
    losses = np.maximum.accumulate([loss for _, loss in known])
    hull = _lower_hull([(count, float(loss)) for (count, _), loss in zip(known, losses, strict=True)])
    steps = np.zeros(channels)
    for (start, before), (end, after) in itertools.pairwise(hull):
        steps[start:] = (after - before) / (end - start)
    return steps


def _lower_hull(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """Those of some points, ascending, that no line between two others is below."""
    hull: list[tuple[int, float]] = []
    for point in points:
        while len(hull) > 1 and _slope(hull[-2], hull[-1]) >= _slope(hull[-2], point):
            hull.pop()
        hull.append(point)
    return hull


def _slope(first: tuple[int, float], second: tuple[int, float]) -> float:
    return (second[1] - first[1]) / (second[0] - first[0])
