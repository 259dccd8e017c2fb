"""Which channels go: from scores and a target to the exact list of channels each group keeps.

All scopes are one idea. Every removable channel gets a key, and removing the channels with the smallest
keys, one more at a time, makes a family of ever smaller networks. The target names one member of that
family, found by bisection on predicted costs.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.cost_table import CostTable, Prediction
from bench.errors import BenchError
from bench.groups import ChannelGroup, prunable

Scores = dict[str, Tensor]
"""Group name -> [channels] importance, larger = keep. A method's whole output."""


@dataclass(frozen=True)
class Target:
    """How small the network is to become.

    Attributes:
        kind: `channels` (share of the prunable channels to remove), `macs` or `params` (share to keep).
        value: the share, in [0, 1) for channels and (0, 1] for costs.
        scope: `global` ranks all channels together, `local` removes the same share of every group.
        min_keep: smallest share of a group's channels that stays; at least one channel always does.
    """

    kind: str
    value: float
    scope: str = "global"
    min_keep: float = 0.02


@dataclass(frozen=True)
class PruningPlan:
    """The record of what is removed, made before anything is.

    Attributes:
        kept: group name -> ascending indices of the channels that stay, for every prunable group.
        channels: (kept, of) prunable channels.
        predicted: what the network will cost.
        dense: what it costs now.
        skipped: prunable groups the method gave no score to, which stay whole.
    """

    kept: dict[str, list[int]]
    channels: tuple[int, int]
    predicted: Prediction
    dense: Prediction
    skipped: list[str] = field(default_factory=list)

    @property
    def channel_ratio(self) -> float:
        """Share of the prunable channels that goes."""
        return 1 - self.channels[0] / self.channels[1]

    @property
    def removes_channels(self) -> bool:
        """Whether anything goes at all."""
        return self.channels[0] < self.channels[1]

    def as_record(self) -> dict[str, Any]:
        """Plain data for a JSON record."""
        return {
            "channel_ratio": self.channel_ratio,
            "channels": {"kept": self.channels[0], "of": self.channels[1]},
            "predicted": self.predicted._asdict(),
            "before": self.dense._asdict(),
            "skipped_groups": self.skipped,
            "kept": self.kept,
        }


def make_plan(groups: Sequence[ChannelGroup], scores: Scores, table: CostTable, target: Target) -> PruningPlan:
    """Chooses the channels to remove.

    Args:
        groups: all groups of the network, in the table's order.
        scores: a score for every channel of the prunable groups; a group without one stays whole.
        table: predicts the cost of a choice.
        target: what to reach. Of the two choices on either side of a cost target the closer one is taken;
            a channel share is never exceeded.

    Raises:
        BenchError: scores that do not fit the groups, or a target out of reach (saying the best that is not).
    """
    _check_scores(groups, scores)
    order = _removal_order(groups, scores, target)
    reach = _Reach(groups, table, order)
    count = _removals_for(target, groups, order, reach)
    removed: dict[int, set[int]] = {}
    for group, channel in zip(order.group[:count].tolist(), order.channel[:count].tolist(), strict=True):
        removed.setdefault(group, set()).add(channel)
    kept = {
        group.name: [channel for channel in range(group.channels) if channel not in removed.get(column, ())]
        for column, group in enumerate(groups)
        if group.protected is None
    }
    total = sum(group.channels for group in prunable(groups))
    skipped = [group.name for group in prunable(groups) if group.name not in scores]
    return PruningPlan(kept, (total - count, total), reach.cost(count), table.dense(), skipped)


@dataclass(frozen=True)
class _Order:
    """Removable channels, first to go first: their groups' numbers, their indices, their keys."""

    group: np.ndarray
    channel: np.ndarray
    key: np.ndarray


def _removal_order(groups: Sequence[ChannelGroup], scores: Scores, target: Target) -> _Order:
    columns, channels, keys = [], [], []
    for column, group in enumerate(groups):
        if group.protected is not None or group.name not in scores:
            continue
        score = scores[group.name].detach().double().cpu().numpy()
        ascending = np.argsort(score, kind="stable")
        floor = max(1, math.ceil(target.min_keep * group.channels))
        removable = ascending[: group.channels - floor]
        # Locally, the k-th of C channels goes once the share passes (k + 1/2) / C: round(share * C) channels go.
        position = (np.arange(len(removable)) + 0.5) / group.channels
        keys.append(position if target.scope == "local" else score[removable])
        channels.append(removable)
        columns.append(np.full(len(removable), column))
    if not keys:
        return _Order(*(np.empty(0, dtype=np.int64) for _ in range(3)))
    key = np.concatenate(keys)
    # Stable: among equal keys the order is the network's, so the same scores always give the same plan.
    first = np.argsort(key, kind="stable")
    return _Order(np.concatenate(columns)[first], np.concatenate(channels)[first], key[first])


class _Reach:
    """The cost of removing the first n channels of an order."""

    def __init__(self, groups: Sequence[ChannelGroup], table: CostTable, order: _Order):
        self._groups, self._table, self._order = len(groups), table, order

    def cost(self, count: int) -> Prediction:
        lost = np.bincount(self._order.group[:count], minlength=self._groups)
        return self._table.predict(self._table.channels - lost)


def _removals_for(target: Target, groups: Sequence[ChannelGroup], order: _Order, reach: _Reach) -> int:
    """How many channels of the order go."""
    if target.kind == "channels":
        return _removals_for_share(target, groups, order)
    wanted = target.value * _cost_of(target.kind)(reach.cost(0))
    of = _cost_of(target.kind)
    if of(reach.cost(len(order.key))) > wanted:
        best = of(reach.cost(len(order.key))) / of(reach.cost(0))
        raise BenchError(
            f"cannot keep only {target.value:.1%} of the {target.kind}: at least {best:.1%} stay with "
            f"--min-keep {target.min_keep:g}; ask for more or lower --min-keep"
        )
    low, high = 0, len(order.key)
    while low < high:
        middle = (low + high) // 2
        if of(reach.cost(middle)) <= wanted:
            high = middle
        else:
            low = middle + 1
    if low > 0 and of(reach.cost(low - 1)) - wanted < wanted - of(reach.cost(low)):
        return low - 1
    return low


def _removals_for_share(target: Target, groups: Sequence[ChannelGroup], order: _Order) -> int:
    total = sum(group.channels for group in prunable(groups))
    # The small numbers undo binary fractions: 0.29 * 100 is 28.999999999999996.
    if target.scope == "local":
        count = int(np.searchsorted(order.key, target.value + 1e-12, side="right"))
        out_of_reach = target.value > 1 - target.min_keep + 1e-12
    else:
        count = math.floor(target.value * total + 1e-9)
        out_of_reach = count > len(order.key)
    if out_of_reach:
        raise BenchError(
            f"cannot remove {target.value:.1%} of the channels: at most {len(order.key) / total:.1%} can go with "
            f"--min-keep {target.min_keep:g}; ask for less or lower --min-keep"
        )
    return count


def _cost_of(kind: str) -> Callable[[Prediction], int]:
    return {"macs": lambda cost: cost.macs, "params": lambda cost: cost.parameters}[kind]


def _check_scores(groups: Sequence[ChannelGroup], scores: Scores) -> None:
    known = {group.name: group for group in groups}
    for name, score in scores.items():
        if name not in known:
            raise BenchError(f"scores name a group the network does not have: {name}; score this network again")
        if tuple(score.shape) != (known[name].channels,):
            raise BenchError(
                f"scores of {name} have shape {list(score.shape)}, the group has {known[name].channels} channels; "
                "score this network again"
            )
        if not torch.isfinite(score).all():
            raise BenchError(f"scores of {name} are not finite; look for nan in the checkpoint or the images")


def original_channels(
    before: Mapping[str, list[int]], groups: Sequence[ChannelGroup], plan: PruningPlan
) -> dict[str, list[int]]:
    """What a plan keeps, in the channel numbers of the dense network.

    Args:
        before: what earlier cuts kept of the dense network.
        groups: the groups the plan was made for.
        plan: the present cut.
    """
    kept = dict(before)
    for group in groups:
        if group.name in plan.kept:
            numbers = before.get(group.name, range(group.channels))
            kept[group.name] = [numbers[channel] for channel in plan.kept[group.name]]
    return kept
