"""One L1 ranking over the whole network, its first layer left whole.

The norm: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, https://arxiv.org/abs/1608.08710
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.channels.layer_axes import first_layer
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.pruners.filters import filter_norm, rated_filters, relative_to_mean


def global_importance(norms: Sequence[Tensor]) -> Tensor:
    """Mean over the layers that make the same channels, over the mean of the group: several [C] -> float64 [C]."""
    return relative_to_mean(torch.stack([member.double() for member in norms]).mean(dim=0))


@dataclass(frozen=True)
class L1Global(Pruner):
    """L1 norm relative to the group's mean; the group of the first layer is not scored, so it stays whole."""

    name: ClassVar[str] = "l1_global"
    paper: ClassVar[str] = "Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, ranked globally"
    scope: ClassVar[str] = "global"

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        first = first_layer(model)
        return {
            group.name: global_importance(rated_filters(model, group, lambda filters: filter_norm(filters, 1)))
            for group in groups
            if first not in (producer.layer.layer for producer in group.producers)
        }
