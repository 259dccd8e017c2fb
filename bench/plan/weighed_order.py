"""The order in which channels go when importance is weighed against cost.

The next step is the one that loses least importance for what it saves now, at the widths reached so far: a greedy walk
down a cost that is a sum of products of widths, where each step makes others cheaper or dearer. The importance a
group loses grows with every channel and, in MACs and parameters, what a channel saves only falls, so that the ratio of
the two rises in each group: no step hides a better one behind it. Where a cost has stairs, as latencies do, runs of
one, two, four and more steps of a group are weighed, and the best of them is taken.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from bench.plan.cost_model import CostModel

# Where scores or savings are 0, this share of their mean stands in, so that the other of the two decides.
_LITTLE = 1e-9


@dataclass(frozen=True)
class Objective:
    """What is to be saved, and what the channels of each group are worth.

    Attributes:
        cost: what is to be saved.
        curves: group name -> float64 [channels], ascending: what is lost with the first channel that goes, with the
            second, and so on; None takes the scores themselves.
        multipliers: group name -> by how much more than others its channels count; 1 where nothing is said.
    """

    cost: CostModel
    curves: Mapping[str, np.ndarray] | None = None
    multipliers: Mapping[str, float] = field(default_factory=dict)


class Removable(NamedTuple):
    """The channels that one group may lose, in the order in which they go.

    Attributes:
        group: its number.
        importance: float64 [n], ascending.
        widths: int64 [n + 1], the channels the group keeps in the network that has lost none, one, two... of them;
            with rounding the same for several.
    """

    group: int
    importance: np.ndarray
    widths: np.ndarray


class Ranking(NamedTuple):
    """Groups whose channels are weighed against each other; of several rankings all lose the same share.

    Attributes:
        members: the channels of each group.
        gone: how many channels the groups have lost before.
        channels: how many they had.
    """

    members: Sequence[Removable]
    gone: int
    channels: int


def weighed_order(rankings: Sequence[Ranking], kept: np.ndarray, cost: CostModel) -> np.ndarray:
    """Orders the removable channels of all groups.

    Args:
        rankings: which channels are weighed against which.
        kept: int64 [groups], the widths to begin with.
        cost: what is to be saved.

    Returns:
        int64 [channels], the group that loses each.
    """
    if not any(ranking.members for ranking in rankings):
        return np.empty(0, dtype=np.int64)
    return _Walk(rankings, kept.copy(), cost).taken()


class _Walk:
    """Where each group stands on its way down.

    The steps of all groups lie one behind the other in flat arrays: `widths` before the first step and after each,
    `ends`, the channels lost by then, and `losses`, the importance. `place` says where in them a group is.
    """

    def __init__(self, rankings: Sequence[Ranking], kept: np.ndarray, cost: CostModel):
        self._kept, self._cost = kept, cost
        members = [member for ranking in rankings for member in ranking.members]
        self._groups = np.array([member.group for member in members], dtype=np.int64)
        self._counts = [len(member.importance) for member in members]
        sizes = [len(ranking.members) for ranking in rankings]
        bounds = np.cumsum([0, *sizes])
        self._rankings = [slice(low, high) for low, high in itertools.pairwise(bounds)]
        self._shares = [(ranking.gone, ranking.channels) for ranking in rankings]
        steps = [_steps(member, cost.grain) for ranking in rankings for member in _positive(ranking)]
        self._widths, self._ends, self._losses = map(np.concatenate, zip(*steps, strict=True))
        lengths = np.array([len(widths) for widths, _, _ in steps], dtype=np.int64)
        self._last = np.cumsum(lengths) - 1
        self._place = self._last - lengths + 1
        number = {group: member for member, group in enumerate(self._groups.tolist())}
        self._touched = [
            np.array([number[other] for other in cost.neighbours[group].tolist() if other in number], dtype=np.int64)
            for group in self._groups.tolist()
        ]
        self._little = _LITTLE * max(abs(cost.cost(kept)), 1e-300)
        # Of each group the best step: importance lost for what is saved, and where it ends.
        self._price = np.full(len(members), np.inf)
        self._stop = self._place.copy()
        self._weigh(np.arange(len(members)))

    def taken(self) -> np.ndarray:
        """Walks to the end."""
        owners, counts = [], []
        lost = [gone for gone, _ in self._shares]
        left = [self._price[part].min(initial=np.inf) < np.inf for part in self._rankings]
        while any(left):
            # The ranking that is furthest behind, as shares of the channels go.
            behind = min(
                (which for which, has_more in enumerate(left) if has_more),
                key=lambda which: (lost[which] + 0.5) / self._shares[which][1],
            )
            part = self._rankings[behind]
            member = part.start + int(self._price[part].argmin())
            stop = self._stop[member]
            count = int(self._ends[stop] - self._ends[self._place[member]])
            owners.append(self._groups[member])
            counts.append(count)
            lost[behind] += count
            self._place[member] = stop
            self._kept[self._groups[member]] = self._widths[stop]
            self._weigh(self._touched[member])
            left[behind] = self._price[part].min() < np.inf
        # Channels that rounding keeps whatever is asked.
        owners += self._groups.tolist()
        counts += [total - int(self._ends[last]) for total, last in zip(self._counts, self._last, strict=True)]
        return np.repeat(np.array(owners, dtype=np.int64), counts)

    def _weigh(self, members: np.ndarray) -> None:
        """Finds the best step of some groups at the widths reached."""
        place, last = self._place[members], self._last[members]
        self._price[members[place == last]] = np.inf
        members = members[place < last]
        if not len(members):
            return
        place = self._place[members]
        if not self._cost.looks_ahead:
            self._price[members], self._stop[members] = self._prices(members, place, place + 1), place + 1
            return
        # One step, two, four, and so on, as far as there are.
        ahead = np.frexp(self._last[members] - place)[1]
        starts = np.cumsum(ahead) - ahead
        of = np.repeat(np.arange(len(members)), ahead)
        stops = place[of] + (1 << (np.arange(len(of)) - starts[of]))
        prices = self._prices(members[of], place[of], stops)
        best = np.minimum.reduceat(prices, starts)
        # Of equal ones the shortest.
        found = np.flatnonzero(prices == best[of])
        first = found[np.unique(of[found], return_index=True)[1]]
        self._price[members], self._stop[members] = best, stops[first]

    def _prices(self, members: np.ndarray, place: np.ndarray, stops: np.ndarray) -> np.ndarray:
        """Importance lost for each unit saved."""
        saved = self._cost.savings(self._kept, self._groups[members], self._widths[stops])
        return (self._losses[stops] - self._losses[place]) / np.maximum(saved, self._little)


def _positive(ranking: Ranking) -> list[Removable]:
    """Importance above 0: scores that may be negative count from the least of their ranking."""
    every = np.concatenate([member.importance for member in ranking.members])
    least = every.min(initial=0.0)
    mean = (every - least).mean() if len(every) else 0.0
    floor = _LITTLE * mean if mean > 0 else 1.0
    return [member._replace(importance=np.maximum(member.importance - least, floor)) for member in ranking.members]


def _steps(member: Removable, grain: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Before the first step and after each: the width, the channels lost, the importance lost."""
    total = np.concatenate([[0.0], np.cumsum(member.importance)])
    most, widths = len(member.importance), member.widths
    is_rounded = most > 0 and len(np.unique(widths)) < most + 1
    if is_rounded:
        # To each width the group may keep belong as many channels as it has, wherever in between rounding turns.
        levels = np.unique(widths)[::-1]
        ends = np.clip(widths[0] - levels, 0, most)
    else:
        ends = np.arange(most + 1)
        if grain > 1 and most:
            ends = ends[(widths % grain == 0) | (ends == 0) | (ends == most)]
    return widths[ends] if not is_rounded else levels, ends, total[ends]
