"""FPGM: a filter's importance is the sum of its distances to the other filters of its layer.

He et al., Filter Pruning via Geometric Median for Deep Convolutional Neural Networks Acceleration, CVPR 2019,
https://arxiv.org/abs/1811.00250
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.config.declare import option
from bench.errors import UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.pruners.filters import filter_norm, merge_normalised, rated_filters, relative_to_mean
from bench.rounding import share_down

_ROWS = 256


def distance_sums(filters: Tensor) -> Tensor:
    """The sum of the Euclidean distances of each filter to all the others: [C, K] -> float64 [C].

    The matrix of distances is made some rows at a time.
    """
    # Distances do not depend on the origin, and near it matrix products lose the fewest digits.
    centred = filters.double() - filters.double().mean(dim=0)
    return torch.cat([torch.cdist(rows, centred).sum(dim=1) for rows in centred.split(_ROWS)])


def fpgm_importance(filters: Tensor, norm_keep: float = 1.0) -> Tensor:
    """The sum of distances of each filter; those that a cut by norm removes first score below all others.

    Args:
        filters: [C, K].
        norm_keep: share of the filters, those of the largest L2 norms, that pass that cut.

    Returns:
        float64 [C]; sums of distances if all pass. Else those that pass score 1 and their sum, over the mean of the
        sums, of distances to each other; those that do not score below 1, by their norm's rank.
    """
    cut = share_down(1 - norm_keep, len(filters))
    if cut == 0:
        return distance_sums(filters)
    ascending = filter_norm(filters, 2).argsort(stable=True)
    gone, candidates = ascending[:cut], ascending[cut:]
    scores = torch.empty(len(filters), dtype=torch.float64, device=filters.device)
    scores[candidates] = 1 + relative_to_mean(distance_sums(filters[candidates]))
    scores[gone] = torch.arange(cut, dtype=torch.float64, device=filters.device) / cut
    return scores


@dataclass(frozen=True)
class FPGM(Pruner):
    """Sum of distances to the other filters; with `norm_keep` below 1 the filters of small norm go first."""

    norm_keep: float = option(
        1.0, "share of a layer's filters, those of the largest norm, that are compared; the others go first, by norm"
    )

    name: ClassVar[str] = "fpgm"
    paper: ClassVar[str] = "He et al., Filter Pruning via Geometric Median, CVPR 2019"
    scope: ClassVar[str] = "local"

    def __post_init__(self) -> None:
        if not 0 < self.norm_keep <= 1:
            raise UsageError(f"option norm_keep of fpgm must be in (0, 1], not {self.norm_keep:g}")

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        return {
            group.name: merge_normalised(
                rated_filters(model, group, lambda filters: fpgm_importance(filters, self.norm_keep))
            )
            for group in groups
        }
