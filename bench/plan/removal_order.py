"""The order in which channels go, and with it ever smaller networks: how many channels each group then keeps.

All scopes are one idea. Channels are ranked within classes of groups, and within a class of N channels the k-th to
go has the key (k + 1/2) / N. Removing channels by ascending key takes the same share of every class at every point.
With one class for all groups, or for each pool of groups, this is the global ranking, with a class for each group the
local one, and with a class for each structure the isomorphic one (Fang et al., Isomorphic Pruning for Vision Models,
ECCV 2024), where scores are compared only between groups whose layers are of the same types on the same sides.

What a group keeps is rounded in every network of the order, so that its cost is the cost that is searched.

With an objective (`bench.plan.weighed_order`) the channels of a class go by importance for what each saves instead, and
several classes lose the same share as nearly as whole steps allow.

An order may begin with a network that has lost channels before: they count towards the limits and the shares, and a
class that has lost more than its share waits for the others.
"""

from __future__ import annotations

import bisect
import fnmatch
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np
from torch import Tensor

from bench.channels.groups import ChannelGroup, prunable
from bench.errors import BenchError, UsageError
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.target import Target
from bench.plan.weighed_order import Objective, Ranking, Removable, weighed_order
from bench.rounding import share_nearest, share_up


class RemovalOrder:
    """Networks 0, 1, 2, ...: number n has lost the first n channels of one order, each group's count rounded.

    Each keeps no channel that an earlier one has lost.

    Attributes:
        keys: float64 [n], ascending, of the channels that may go.
        channels: how many prunable channels the groups have that follow the goal.
        most_of_a_group: the largest share of a group that the target's limits let go.
    """

    def __init__(
        self,
        groups: Sequence[ChannelGroup],
        scores: Mapping[str, Tensor],
        table: CostTable,
        target: Target,
        kept: Mapping[str, Sequence[int]] | None = None,
        objective: Objective | None = None,
    ):
        """Ranks the channels.

        Args:
            groups: all groups of the network, in the table's order.
            scores: for groups of which channels may go, float [channels], or [those still there] in their order.
            table: predicts costs.
            target: scope and limits; what is to be reached does not matter here.
            kept: group name -> the channels that are still there, ascending; a group not named is whole.
            objective: what importance is weighed against; None lets it decide alone.

        Raises:
            UsageError: a pattern of the target's fits no group.
            BenchError: what is asked of single groups is out of reach.
        """
        self._table, self._target = table, target
        self.most_of_a_group = min(1 - target.min_keep, target.max_ratio)
        given = fixed_ratios(groups, target.ratio_of)
        self._check_given(given, scores)
        self._width = np.array([group.channels for group in groups], dtype=np.int64)
        least = 1 - self.most_of_a_group
        self._floor = np.array([max(1, share_up(least, group.channels)) for group in groups], dtype=np.int64)
        # So many channels of a group are a multiple of the positions of its layers that is asked for.
        self._multiple = np.array(
            [target.round_to // math.gcd(target.round_to, group.unit) for group in groups], dtype=np.int64
        )
        self._open = np.array([group.protected is None and group.name not in given for group in groups])
        self.channels = int(self._width[self._open].sum())
        # Gone before or given: what network 0 lacks.
        self._given = np.zeros(len(groups), dtype=np.int64)
        self._ascending = [np.arange(group.channels) for group in groups]
        classes: dict[Hashable, list[tuple[int, np.ndarray]]] = defaultdict(list)
        for column, group in enumerate(groups):
            there = np.array((kept or {}).get(group.name, self._ascending[column]), dtype=np.int64)
            gone = np.setdiff1d(self._ascending[column], there)
            self._given[column] = len(gone)
            score, ranks = np.empty(0), np.arange(len(there))
            if group.protected is None and group.name in scores:
                score = scores[group.name].detach().double().cpu().numpy()
                ranks = np.argsort(score, kind="stable")
            self._ascending[column] = np.concatenate([gone, there[ranks]])
            if not len(score):
                continue
            removable = group.channels - self._floor[column]
            if group.name in given:
                wanted = min(share_nearest(given[group.name], group.channels), removable)
                self._given[column] = max(wanted, len(gone))
            else:
                pool = target.pools.get(group.name)
                ranked_with = {"global": pool, "local": column, "isomorphic": group.structure}[target.scope]
                classes[ranked_with].append((column, score[ranks[: removable - len(gone)]]))
        if objective is None:
            self._order, self.keys, self._scores = self._merged(classes)
        else:
            self._order, self.keys, self._scores = self._weighed(classes, [group.name for group in groups], objective)
        self._costs: dict[int, Prediction] = {}

    def _merged(self, classes: Mapping[Hashable, list[tuple[int, np.ndarray]]]) -> tuple[np.ndarray, ...]:
        """The removable channels of all classes in one order: their groups' numbers, their keys and their scores."""
        columns, keys, values = [np.empty(0, dtype=np.int64)], [np.empty(0)], [np.empty(0)]
        for members in classes.values():
            members_of, scores = zip(*members, strict=True)
            owner = np.repeat(members_of, [len(score) for score in scores])
            # Stable: among equal scores the order is the network's, so the same scores always give the same plan.
            score = np.concatenate(scores)
            ascending, of = np.argsort(score, kind="stable"), list(members_of)
            columns.append(owner[ascending])
            keys.append((self._given[of].sum() + np.arange(len(owner)) + 0.5) / self._width[of].sum())
            values.append(score[ascending])
        key = np.concatenate(keys)
        first = np.argsort(key, kind="stable")
        return np.concatenate(columns)[first], key[first], np.concatenate(values)[first]

    def _weighed(
        self, classes: Mapping[Hashable, list[tuple[int, np.ndarray]]], names: Sequence[str], objective: Objective
    ) -> tuple[np.ndarray, np.ndarray, None]:
        """The same by an objective: there is no score up to which channels go."""
        rankings = []
        for members in classes.values():
            of = [column for column, _ in members]
            found = [self._removable(column, score, names[column], objective) for column, score in members]
            rankings.append(Ranking(found, int(self._given[of].sum()), int(self._width[of].sum())))
        order = weighed_order(rankings, self._rounded(self._given), objective.cost)
        return order, (np.arange(len(order)) + 0.5) / max(1, len(order)), None

    def _removable(self, column: int, score: np.ndarray, name: str, objective: Objective) -> Removable:
        """What a group may lose, and what that is worth."""
        gone, count = self._given[column], len(score)
        if objective.curves is not None:
            if name not in objective.curves:
                raise BenchError(f"the sensitivity curves do not tell about {name}; measure them for this network")
            score = objective.curves[name][gone : gone + count]
        width, floor = self._width[column], self._floor[column]
        widths = nearest_allowed(width - gone - np.arange(count + 1), width, floor, self._multiple[column])
        return Removable(column, score * objective.multipliers.get(name, 1.0), widths)

    def __len__(self) -> int:
        """The number of the smallest network."""
        return len(self.keys)

    def left(self, number: int) -> np.ndarray:
        """int64 [groups], how many channels each group keeps."""
        return self._rounded(self._given + np.bincount(self._order[:number], minlength=len(self._width)))

    def _rounded(self, lost: np.ndarray) -> np.ndarray:
        return nearest_allowed(self._width - lost, self._width, self._floor, self._multiple)

    def kept(self, number: int) -> list[list[int]]:
        """The channels each group keeps, ascending."""
        left = self.left(number).tolist()
        return [sorted(a[len(a) - stay :].tolist()) for a, stay in zip(self._ascending, left, strict=True)]

    def cost(self, number: int) -> Prediction:
        """What a network of the order costs."""
        if number not in self._costs:
            self._costs[number] = self._table.predict(self.left(number))
        return self._costs[number]

    @property
    def costed(self) -> int:
        """Of how many networks the cost was asked."""
        return len(self._costs)

    def threshold(self, number: int) -> float | None:
        """The score of the last channel a network has lost.

        None if it lost none, if there are several rankings, or if it is not by score alone that channels go.
        """
        is_one = self._target.scope == "global" and self._scores is not None
        return float(self._scores[number - 1]) if number and is_one else None

    def removed(self, number: int) -> int:
        """How many channels are gone of the groups that follow the goal."""
        return int((self._width - self.left(number))[self._open].sum())

    def first(self, condition: Callable[[int], bool]) -> int:
        """The first number a condition holds for, one more than the last where it holds for none.

        The condition must hold for all numbers that follow.
        """
        return bisect.bisect_left(range(len(self) + 1), True, key=condition)

    def limits(self) -> str:
        """The flags that bound the order."""
        target = self._target
        flags = [f"`min_keep={target.min_keep:g}`"]
        flags += [f"`max_ratio={target.max_ratio:g}`"] if target.max_ratio < 1 else []
        flags += [f"`round_to={target.round_to}`"] if target.round_to > 1 else []
        flags += ["`ratio_of`"] if target.ratio_of else []
        return " and ".join(flags)

    def _check_given(self, given: Mapping[str, float], scores: Mapping[str, Tensor]) -> None:
        for name, ratio in given.items():
            if name not in scores:
                raise BenchError(f"`ratio_of` names {name}, which the method cannot score; leave it out")
            if ratio > self.most_of_a_group + 1e-12:
                raise BenchError(
                    f"`ratio_of` cannot remove {ratio:.1%} of {name}: at most {self.most_of_a_group:.1%} of a group "
                    "can go; ask for less, lower `min_keep` or raise `max_ratio`"
                )


def fixed_ratios(groups: Sequence[ChannelGroup], ratio_of: Mapping[str, float]) -> dict[str, float]:
    """Group name -> the share that it loses whatever the goal.

    Args:
        groups: all groups of the network.
        ratio_of: pattern of producers' names -> share; the first pattern that fits a group counts.

    Raises:
        UsageError: a pattern fits no group that may be pruned.
    """
    ratios: dict[str, float] = {}
    for pattern, ratio in ratio_of.items():
        fitting = [
            group.name
            for group in prunable(groups)
            if any(fnmatch.fnmatch(producer.layer.layer, pattern) for producer in group.producers)
        ]
        if not fitting:
            raise UsageError(
                f"`ratio_of` pattern '{pattern}' fits no group that may be pruned; prune.py --list-groups names them"
            )
        for name in fitting:
            ratios.setdefault(name, ratio)
    return ratios


def nearest_allowed(kept: np.ndarray, width: np.ndarray, floor: np.ndarray, multiple: np.ndarray) -> np.ndarray:
    """Rounds the numbers of channels that groups keep to numbers they may keep.

    A group may keep multiples of a number from its floor upwards, and its whole width; one narrower than the
    number may keep as many as it likes. Half-way between two the larger one is taken. A smaller `kept` never gives
    a larger result.

    Args:
        kept: int64 [groups], at least the floor.
        width: int64 [groups], channels each group has.
        floor: int64 [groups], the fewest each may keep.
        multiple: int64 [groups], or one number for all, at least 1.

    Returns:
        int64 [groups]
    """
    below = width // multiple * multiple
    nearest = (2 * kept + multiple) // (2 * multiple) * multiple
    nearest = np.where(kept < below, nearest, np.where(2 * kept < below + width, below, width))
    nearest = np.maximum(nearest, -(-floor // multiple) * multiple)
    return np.where(width < multiple, kept, np.minimum(nearest, width))
