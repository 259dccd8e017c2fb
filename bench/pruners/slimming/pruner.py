"""Network Slimming: the scale a BatchNorm gives a channel is its importance.

Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017,
https://arxiv.org/abs/1708.06519
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.groups import ChannelGroup
from bench.plan import Scores
from bench.pruners.base import Calibration, Pruner


def scale_importance(gammas: Sequence[Tensor]) -> Tensor:
    """Mean of |gamma| over the normalisations of the same channels: several [C] -> [C]."""
    return torch.stack([gamma.abs() for gamma in gammas]).mean(dim=0)


@dataclass(frozen=True)
class Slimming(Pruner):
    """|gamma| of a channel, compared over the whole network as it is."""

    name: ClassVar[str] = "slimming"
    paper: ClassVar[str] = "Liu et al., Learning Efficient Convolutional Networks through Network Slimming, ICCV 2017"
    scope: ClassVar[str] = "global"

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        layers = dict(model.named_modules())
        scores: Scores = {}
        for group in groups:
            gammas = [
                norm.gather(layers[norm.layer].weight, group.channels)
                for norm in group.norms
                if layers[norm.layer].weight is not None
            ]
            if gammas:
                scores[group.name] = scale_importance(gammas)
        return scores
