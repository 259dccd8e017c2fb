"""What a pruning works on and returns: a network to score, one a method has changed, and the finished one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import nn

from bench.channels.groups import ChannelGroup
from bench.engine.method_training import Prepared
from bench.measure.evaluation import Evaluation
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
class Made:
    """A network as a method left it.

    Attributes:
        network: what came of the baseline.
        is_changed: whether anything is gone.
        channels: what is left of the dense network's.
        sparse: parameters whose zeros are to stay.
        record: what is said about it.
        plan: which channels it kept; None where none may go.
        trained: the network the method trained first and then cut, if it did.
    """

    network: nn.Module
    is_changed: bool
    channels: Channels
    sparse: list[str]
    record: dict[str, Any]
    plan: PruningPlan | None = None
    trained: Prepared | None = None


@dataclass(frozen=True)
class Pruned:
    """A pruned network and the record of how it was made.

    Attributes:
        saved: the network.
        info: what `pruning_info.json` holds.
        evaluation: how it scores as it is; None where that was not wanted.
    """

    saved: SavedModel
    info: dict[str, Any]
    evaluation: Evaluation | None
