"""L1, L2 and random scores.

L1: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, https://arxiv.org/abs/1608.08710
L2: He et al., Soft Filter Pruning, IJCAI 2018, https://arxiv.org/abs/1808.06866
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from bench.channels.groups import ChannelGroup
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.pruners.filters import filter_norm, merge_normalised, rated_filters


@dataclass(frozen=True)
class FilterNorm(Pruner):
    """Norm of a channel's out-filters, comparable between layers because it is relative to the layer's mean."""

    order: ClassVar[int]
    scope: ClassVar[str] = "local"

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        return {
            group.name: merge_normalised(rated_filters(model, group, lambda filters: filter_norm(filters, self.order)))
            for group in groups
        }


@dataclass(frozen=True)
class L1(FilterNorm):
    """Sum of the absolute weights of a channel's filter."""

    name: ClassVar[str] = "l1"
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017"
    order: ClassVar[int] = 1


@dataclass(frozen=True)
class L2(FilterNorm):
    """Euclidean norm of a channel's filter."""

    name: ClassVar[str] = "l2"
    paper: ClassVar[str] = "He et al., Soft Filter Pruning, IJCAI 2018"
    order: ClassVar[int] = 2


@dataclass(frozen=True)
class Random(Pruner):
    """Independent uniform scores from the seed: the control every method has to beat."""

    name: ClassVar[str] = "random"
    paper: ClassVar[str] = "control"
    scope: ClassVar[str] = "local"

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        generator = torch.Generator().manual_seed(calibration.seed)
        return {group.name: torch.rand(group.channels, generator=generator) for group in groups}
