"""APoZ: a channel's importance is the share of its activations that are not zero.

Hu et al., Network Trimming: A Data-Driven Neuron Pruning Approach towards Efficient Deep Architectures, 2016,
https://arxiv.org/abs/1607.03250
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.plan.pruning_plan import Scores
from bench.pruners.apoz.zero_counts import zero_shares
from bench.pruners.base import Calibration, Pruner
from bench.system.console import say

# Groups without a ReLU that are named; of a transformer nearly all are.
_NAMED = 3


def active_shares(
    model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[tuple[Tensor, Tensor | None]]
) -> Scores:
    """1 - APoZ of each channel, as `zero_counts.zero_shares` counts; says which groups meet no ReLU."""
    zeros = zero_shares(model, groups, batches)
    without = zeros.without_relu
    if without:
        named = ", ".join(without[:_NAMED]) + (f" and {len(without) - _NAMED} more" if len(without) > _NAMED else "")
        say(
            f"no ReLU behind {len(without)} of {len(groups)} groups ({named}): "
            "values of at most 0 are counted there, behind the normalisation or the layer"
        )
    return {name: 1 - share for name, share in zeros.shares.items()}


@dataclass(frozen=True)
class APoZ(Pruner):
    """Share of a channel's activations that are not zero, behind its ReLU."""

    name: ClassVar[str] = "apoz"
    paper: ClassVar[str] = "Hu et al., Network Trimming, arXiv 1607.03250, 2016"
    scope: ClassVar[str] = "global"
    needs_data: ClassVar[bool] = True

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        return active_shares(model, groups, ((images, None) for images, _ in calibration.batches))
