"""L1, L2 and random scores.

L1: Li et al., Pruning Filters for Efficient ConvNets, ICLR 2017, https://arxiv.org/abs/1608.08710
L2: He et al., Soft Filter Pruning, IJCAI 2018, https://arxiv.org/abs/1808.06866
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.groups import ChannelGroup
from bench.layers import out_filters
from bench.plan import Scores
from bench.pruners.base import Calibration, Pruner


def filter_norm(filters: Tensor, order: int) -> Tensor:
    """The L1 or L2 norm of each filter: [C, K] -> [C]."""
    return torch.linalg.vector_norm(filters, ord=order, dim=1)


def merge_normalised(members: Sequence[Tensor]) -> Tensor:
    """Merges the scores several layers give to the same channels: each over its mean, then their mean.

    Args:
        members: [C] each, non-negative.

    Returns:
        [C]; the mean of the result is 1 unless all scores are zero.
    """
    tiny = torch.finfo(torch.float64).tiny
    return torch.stack([scores.double() / scores.double().mean().clamp_min(tiny) for scores in members]).mean(dim=0)


@dataclass(frozen=True)
class FilterNorm(Pruner):
    """Norm of a channel's out-filters, comparable between layers because it is relative to the layer's mean."""

    order: ClassVar[int]
    scope: ClassVar[str] = "local"

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        layers = dict(model.named_modules())
        return {
            group.name: merge_normalised(
                [
                    producer.layer.gather(
                        filter_norm(out_filters(layers[producer.layer.layer]), self.order), group.channels
                    )
                    for producer in group.producers
                ]
            )
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
