"""Which methods of a comparison the seeds tell apart: means with intervals, shared ranks, gaps between pairs.

Intervals are 95 % by Student's t, each by itself: of twenty pairs that are equal, one is expected to look different.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from bench.report.versus_random import margin_of, margin_with

MOST_SEEDS = 100
"""Beyond so many, no number of seeds is said that would tell a pair apart."""


class Estimate(NamedTuple):
    """What the seeds gave for one number.

    Attributes:
        mean: of the values.
        deviation: sample standard deviation; None of a single value.
        margin: half the width of the mean's interval; None of a single value.
        count: how many values.
    """

    mean: float
    deviation: float | None
    margin: float | None
    count: int


def estimate(values: Sequence[float]) -> Estimate | None:
    """Mean, deviation and interval of some values; None of none."""
    if not values:
        return None
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Estimate(statistics.fmean(values), deviation, margin_of(values), len(values))


def shared_ranks(estimates: Sequence[Estimate | None]) -> list[int | None]:
    """Ranks from 1, the larger mean first, that are shared as long as intervals overlap.

    Two methods whose intervals do not overlap share a rank where those of others reach from one to the other.

    Returns:
        None where there is no interval.
    """
    ranked = [(found, place) for place, found in enumerate(estimates) if found and found.margin is not None]
    ranks: list[int | None] = [None] * len(estimates)
    rank, lowest = 0, float("inf")
    # From the top down: a rank ends where an interval begins below all that are in it.
    for position, (found, place) in enumerate(sorted(ranked, key=lambda one: -(one[0].mean + one[0].margin)), start=1):
        if found.mean + found.margin < lowest:
            rank = position
        lowest = min(lowest, found.mean - found.margin)
        ranks[place] = rank
    return ranks


class Pair(NamedTuple):
    """Two methods, seed by seed.

    Attributes:
        better: place of the one with the larger mean over the shared seeds.
        worse: place of the other.
        gap: mean difference, at least 0.
        deviation: of the differences; None with fewer than two shared seeds.
        count: shared seeds.
    """

    better: int
    worse: int
    gap: float
    deviation: float | None
    count: int

    @property
    def margin(self) -> float | None:
        """Half the width of the gap's interval; None with fewer than two shared seeds."""
        return None if self.deviation is None else margin_with(self.deviation, self.count)

    @property
    def is_told(self) -> bool:
        """Whether the interval leaves 0 out."""
        return self.margin is not None and self.gap > self.margin

    @property
    def needed(self) -> int | None:
        """Seeds that would tell them apart if gap and spread stayed what they are; None beyond `MOST_SEEDS`."""
        if self.deviation is None:
            return None
        counts = range(2, MOST_SEEDS + 1)
        return next((count for count in counts if margin_with(self.deviation, count) < self.gap), None)


def pairs_of(scores: Sequence[Mapping[int, float]]) -> list[Pair]:
    """Every pair of methods that share a seed.

    Args:
        scores: of each method, seed -> value.
    """
    found = []
    for (one, first), (other, second) in itertools.combinations(enumerate(scores), 2):
        differences = [first[seed] - second[seed] for seed in first if seed in second]
        if differences:
            mean = statistics.fmean(differences)
            better, worse = (one, other) if mean >= 0 else (other, one)
            deviation = statistics.stdev(differences) if len(differences) > 1 else None
            found.append(Pair(better, worse, abs(mean), deviation, len(differences)))
    return found
