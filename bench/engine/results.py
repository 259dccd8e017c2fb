"""What a pruning works on and what it returns: a network to score, one that was changed, and the finished one."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from torch import nn

from bench.channels.groups import ChannelGroup
from bench.measure.evaluation import Evaluation
from bench.measure.evaluation_report import CostRecord
from bench.measure.latency_report import LatencyReport
from bench.models.checkpoint import Channels, SavedModel
from bench.plan.pruning_plan import PruningPlan


@dataclass(frozen=True)
class Subject:
    """A network that is scored.

    Attributes:
        model: the network, in evaluation mode.
        groups: all its groups.
        digest: names its weights.
    """

    model: nn.Module
    groups: list[ChannelGroup]
    digest: str


@dataclass(frozen=True)
class Cut:
    """The last cut of a network, as it takes to repair it.

    Attributes:
        before: the network before it.
        groups: all groups of that.
        plan: what was kept, in the channel numbers of that.
    """

    before: nn.Module
    groups: list[ChannelGroup]
    plan: PruningPlan


@dataclass(frozen=True)
class Changed:
    """A network that has lost channels or single weights, before anything is done to recover it.

    Attributes:
        network: what came of the baseline.
        is_changed: whether anything is gone.
        channels: what is left of the dense network's.
        record: what `pruning_info.json` says of the change.
        plan: which channels were kept; None where none may go.
        sparse: parameters whose zeros are to stay.
        schedule: the record of several cuts, if there were several.
        latency: what was measured on it beside the baseline, if a latency was the target.
        cut: the cut it comes from; None where there is nothing to repair.
    """

    network: nn.Module
    is_changed: bool
    channels: Channels
    record: dict[str, Any]
    plan: PruningPlan | None = None
    sparse: list[str] = field(default_factory=list)
    schedule: dict[str, Any] = field(default_factory=dict)
    latency: LatencyReport | None = None
    cut: Cut | None = None


@dataclass(frozen=True)
class Pruned:
    """A pruned network and the record of how it was made.

    Attributes:
        saved: the network.
        info: what `pruning_info.json` holds.
        cost: what the network costs.
        evaluation: how it scores as it is; None where that was not wanted.
        latency: of it and the baseline, where that is known already.
    """

    saved: SavedModel
    info: dict[str, Any]
    cost: CostRecord
    evaluation: Evaluation | None
    latency: LatencyReport | None = None
