"""The MACs that a target leaves to spend, for methods that learn the widths of layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from bench.channels.groups import ChannelGroup, prunable
from bench.errors import UsageError
from bench.plan.cost_table import CostTable
from bench.plan.pruning_plan import Scores, make_plan
from bench.plan.removal_order import fixed_ratios
from bench.plan.target import Target


@dataclass(frozen=True)
class Budget:
    """The MACs a pruned network is to have.

    Attributes:
        groups: all groups of the network, in the table's order.
        table: predicts MACs.
        macs: multiply-accumulates to aim at.
        given: group name -> channels it keeps whatever a method says.
    """

    groups: Sequence[ChannelGroup]
    table: CostTable
    macs: float
    given: Mapping[str, int]


def flat_scores(groups: Sequence[ChannelGroup]) -> Scores:
    """The same score for every channel that may go."""
    return {group.name: torch.zeros(group.channels) for group in prunable(groups)}


def budget_for(groups: Sequence[ChannelGroup], table: CostTable, target: Target) -> Budget:
    """The MACs that a target stands for.

    A target in MACs names them, and a share of the latency is taken for the same share of the MACs. For any other
    they are those of the uniform network that meets it, in which every group has lost the same share of its channels.

    Raises:
        UsageError: a pattern of the target's fits no group, or a time that says nothing about MACs.
        BenchError: the target is out of reach.
    """
    if target.goal.kind == "milliseconds":
        raise UsageError(
            "a method that learns widths needs a share to aim at, not a time; pass `target_latency` as a share such "
            "as 0.6, or `target_macs`"
        )
    if target.goal.kind == "latency":
        target = replace(target, goal=replace(target.goal, kind="macs"))
    uniform = make_plan(groups, flat_scores(groups), table, replace(target, scope="local"))
    macs = target.goal.value * uniform.dense.macs if target.goal.kind == "macs" else uniform.predicted.macs
    given = {name: len(uniform.kept[name]) for name in fixed_ratios(groups, target.ratio_of)}
    return Budget(groups, table, float(macs), given)
