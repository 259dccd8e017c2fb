"""Which channels go: from scores and a target to the exact list of channels each group keeps.

The scores and the limits of a target define an order in which channels go (`bench.plan.removal_order`), and with it
ever smaller networks. The goal names one of them, found by bisection on predicted costs; a latency cannot be predicted
and is searched elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.channels.groups import ChannelGroup, prunable
from bench.errors import BenchError
from bench.plan.cost_table import CostTable, Prediction
from bench.plan.removal_order import RemovalOrder
from bench.plan.target import Target, megabytes
from bench.plan.weighed_order import Objective
from bench.rounding import share_down

Scores = dict[str, Tensor]
"""Group name -> [channels] importance, larger = keep. A method's whole output."""


@dataclass(frozen=True)
class PruningPlan:
    """The record of what is removed, made before anything is.

    Attributes:
        kept: group name -> ascending indices of the channels that stay, for every prunable group.
        channels: (kept, of) prunable channels.
        predicted: what the network will cost.
        dense: what it costs now.
        skipped: prunable groups the method gave no score to, which stay whole.
        threshold: where all channels are in one ranking, the score up to which they go, as far as the limits of each
            group let them.
        costed: how many networks were costed to find this one.
        is_counted: whether the MACs of these networks were counted, because no table tells them.
    """

    kept: dict[str, list[int]]
    channels: tuple[int, int]
    predicted: Prediction
    dense: Prediction
    skipped: list[str] = field(default_factory=list)
    threshold: float | None = None
    costed: int = 0
    is_counted: bool = False

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
            "search": {
                "threshold": self.threshold,
                "networks_costed": self.costed,
                **({"macs_counted": True} if self.is_counted else {}),
            },
            "skipped_groups": self.skipped,
            "kept": self.kept,
        }


def make_plan(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    table: CostTable,
    target: Target,
    kept: Mapping[str, Sequence[int]] | None = None,
    objective: Objective | None = None,
) -> PruningPlan:
    """Chooses the channels to remove.

        >>> groups, pruner = find_groups(model), make_pruner("l1")
        >>> scores = pruner.score(model, prunable(groups), Calibration(batches=[], ignore_index=11, seed=0))
        >>> table = CostTable(model, groups, (360, 480))
        >>> plan = make_plan(groups, scores, table, Target(Goal("macs", 0.5), pruner.scope))
        >>> plan.predicted.macs / plan.dense.macs
        0.50...
        >>> plan.kept["downs.0.conv.0"]
        [...]

    Args:
        groups: all groups of the network, in the table's order.
        scores: a score for every channel of the prunable groups, of those still there if some are gone; a group
            without one stays as it is.
        table: predicts the cost of a choice.
        target: what to reach, unless it is a latency (`bench.plan.latency_search`). A share of the channels is never
            exceeded, but by `local`, which takes the same share of every group, to the nearest number that it may
            keep. Of the two choices on either side of a share of MACs or parameters the closer one is taken, and must
            be as close as is asked; a size is never exceeded.
        kept: for one of several cuts of the network, what the earlier ones left of each group. Target, limits and
            the plan itself count from the whole network all the same, and none of the channels that are gone comes
            back. Cuts that have gone further than the target already are no error; the plan takes nothing then.
        objective: what the importance of a channel is weighed against, such as `Objective(exact_cost(table, "macs"))`;
            None lets the scores decide alone.

    Raises:
        UsageError: a pattern of the target's fits no group.
        BenchError: scores that do not fit the groups, or a target out of reach (saying the best that is not).
    """
    order = removal_order_of(groups, scores, table, target, kept, objective)
    if target.goal.kind == "channels":
        number = _reaching_share(order, target)
    else:
        number = _reaching_cost(order, table.dense(), target, may_be_behind=kept is not None)
    return plan_of(groups, scores, table, order, number)


def removal_order_of(
    groups: Sequence[ChannelGroup],
    scores: Scores,
    table: CostTable,
    target: Target,
    kept: Mapping[str, Sequence[int]] | None = None,
    objective: Objective | None = None,
) -> RemovalOrder:
    """The networks among which a target names one; arguments and errors are those of `make_plan`."""
    _check_scores(groups, scores, kept or {})
    return RemovalOrder(groups, scores, table, target, kept, objective)


def plan_of(
    groups: Sequence[ChannelGroup], scores: Scores, table: CostTable, order: RemovalOrder, number: int
) -> PruningPlan:
    """The plan that leaves a network of a removal order."""
    kept = {
        group.name: channels
        for group, channels in zip(groups, order.kept(number), strict=True)
        if group.protected is None
    }
    total = sum(group.channels for group in prunable(groups))
    skipped = [group.name for group in prunable(groups) if group.name not in scores]
    channels = (sum(map(len, kept.values())), total)
    predicted, threshold = order.cost(number), order.threshold(number)
    counted = table.is_counted
    return PruningPlan(kept, channels, predicted, table.dense(), skipped, threshold, order.costed, counted)


def _reaching_share(order: RemovalOrder, target: Target) -> int:
    """The network of the order that has lost a share of its channels."""
    goal, most = target.goal, order.removed(len(order))
    # The small numbers undo binary fractions, as those of `bench.rounding` do.
    if target.scope == "local":
        number = int(np.searchsorted(order.keys, goal.value + 1e-12, side="right"))
        out_of_reach = goal.value > order.most_of_a_group + 1e-12
    else:
        allowed = share_down(goal.value, order.channels)
        # At least 0: cuts before this one may have gone further.
        number = max(0, order.first(lambda member: order.removed(member) > allowed) - 1)
        out_of_reach = allowed > most
    if out_of_reach:
        best = math.floor(1000 * most / max(1, order.channels)) / 1000
        raise BenchError(
            f"cannot remove {goal.value:.1%} of the channels: at most {best:.1%} can go with {order.limits()}; "
            "ask for less or loosen that"
        )
    return number


def _reaching_cost(order: RemovalOrder, dense: Prediction, target: Target, *, may_be_behind: bool) -> int:
    """The network of the order that costs what is wanted, or its first if that may cost less already."""
    goal = target.goal
    name = {"macs": "macs", "params": "parameters", "size": "bytes"}[goal.kind]

    def cost(number: int) -> int:
        return getattr(order.cost(number), name)

    is_size = goal.kind == "size"
    wanted = goal.value if is_size else goal.value * getattr(dense, name)
    least = cost(len(order))
    if least > wanted and is_size:
        raise BenchError(
            f"cannot get down to {megabytes(wanted)}: at least {megabytes(1000 * math.ceil(least / 1000))} stay with "
            f"{order.limits()}; ask for more or loosen that"
        )
    if least > wanted:
        best = math.ceil(1000 * least / getattr(dense, name)) / 1000
        raise BenchError(
            f"cannot keep only {goal.value:.1%} of the {goal.kind}: at least {best:.1%} stay with "
            f"{order.limits()}; ask for more or loosen that"
        )
    if cost(0) < wanted and not is_size and not may_be_behind:
        raise BenchError(
            f"cannot keep {goal.value:.1%} of the {goal.kind}: `ratio_of` alone leaves "
            f"{cost(0) / getattr(dense, name):.1%}; ask for less of either"
        )
    number = order.first(lambda member: cost(member) <= wanted)
    is_closer_above = number > 0 and cost(number - 1) - wanted < wanted - cost(number)
    if is_size:
        return number
    number -= is_closer_above
    share = cost(number) / getattr(dense, name)
    if goal.within is not None and abs(share - goal.value) > goal.within:
        raise BenchError(
            f"the closest to {goal.value:.2%} of the {goal.kind} that whole channels reach is {share:.2%}, "
            f"more than {goal.within:.1%} of the network away; lower `round_to` or leave `auto_search` out"
        )
    return number


def _check_scores(groups: Sequence[ChannelGroup], scores: Scores, kept: Mapping[str, Sequence[int]]) -> None:
    known = {group.name: group for group in groups}
    for name, score in scores.items():
        if name not in known:
            raise BenchError(f"scores name a group the network does not have: {name}; score this network again")
        channels = len(kept.get(name, range(known[name].channels)))
        if tuple(score.shape) != (channels,):
            raise BenchError(
                f"scores of {name} have shape {list(score.shape)}, the group has {channels} channels; "
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


def renumbered(plan: PruningPlan, kept: Mapping[str, Sequence[int]]) -> PruningPlan:
    """A plan in the channel numbers of the network that earlier cuts left.

    Args:
        plan: one of several cuts, in the channel numbers of the whole network.
        kept: what it was made with (see `make_plan`).
    """
    numbers = {name: {channel: number for number, channel in enumerate(there)} for name, there in kept.items()}
    return replace(plan, kept={name: [numbers[name][channel] for channel in left] for name, left in plan.kept.items()})
