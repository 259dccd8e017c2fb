"""The formulas of DMCP: Markov gates over the ranks of a group's channels, what they keep on average, the budget.

The first ranks of a group always stay; the others come in steps of several channels. Step k stays only if step k - 1
does, with probability p_k = sigmoid(a_k), so that the number of channels kept is a walk that stops at its first
failure.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

FINEST = 0.1
"""Share of a group's channels that a step has, and that about always stays."""

FAR = 40.0
"""A shift that opens or closes every gate."""


class Layout(NamedTuple):
    """How the ranks of a group are divided.

    Attributes:
        always: ranks that always stay.
        size: ranks a step.
        steps: how many steps there are.
    """

    always: int
    size: int
    steps: int

    @property
    def channels(self) -> int:
        """All ranks."""
        return self.always + self.size * self.steps


def gate_layout(channels: int) -> Layout:
    """The division of a group of so many channels: nine steps of a tenth, rounded down; the rest always stays.

    Where a tenth is less than two channels the published division keeps up to all of them; steps are then of one
    channel and the tenth that always stays is rounded up.
    """
    size = int(FINEST * channels)
    if size < 2:
        always = max(1, -(-channels // 10))
        return Layout(always, 1, channels - always)
    steps = int((1 - FINEST) / FINEST + 1e-4)
    return Layout(channels - steps * size, size, steps)


def marginals(logits: Tensor) -> Tensor:
    """P_k = p_1 * ... * p_k, the probability that step k stays: [steps] -> [steps], not increasing."""
    return torch.sigmoid(logits).cumprod(dim=0)


def expected_width(layout: Layout, logits: Tensor) -> Tensor:
    """Mean number of channels kept, in [always, channels]; differentiable, float64."""
    return layout.always + layout.size * marginals(logits.double()).sum()


def gates_by_rank(layout: Layout, logits: Tensor) -> Tensor:
    """The gate of each rank: 1 for those that always stay, P_k for those of step k; [channels]."""
    return torch.cat([logits.new_ones(layout.always), marginals(logits).repeat_interleave(layout.size)])


def prefix(layout: Layout, width: int) -> Tensor:
    """The gates of a network that keeps the first `width` ranks: [channels], 0 or 1."""
    return (torch.arange(layout.channels) < width).float()


def sample_width(layout: Layout, logits: Tensor, generator: torch.Generator) -> int:
    """Walks the chain once and returns the channels kept."""
    stays = torch.rand(layout.steps, generator=generator) < torch.sigmoid(logits.detach()).cpu()
    return layout.always + layout.size * int(stays.long().cumprod(dim=0).sum())


def budget_loss(expected: Tensor, target: float) -> Tensor:
    """The published `log_l1` without its weight: 0 within 5 % below the target, and a pull that grows near it.

    Args:
        expected: scalar, mean MACs.
        target: MACs wanted.
    """
    if expected < 0.95 * target:
        return torch.log(target - expected)
    if expected < target:
        return 0 * expected
    return torch.log(expected - 0.95 * target)


def shift_to_budget(macs_of: Callable[[float], float], target: float) -> float:
    """The number which added to every logit makes the mean MACs those wanted, found by bisection.

    Args:
        macs_of: mean MACs after such a shift; never less for a larger one.
        target: MACs wanted. One that no shift reaches gives the end of the range that is nearer to it.
    """
    low, high = -FAR, FAR
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if macs_of(middle) < target else (low, middle)
    return high


def scores_from_width(order: Tensor, width: float) -> Tensor:
    """Scores that, ranked over the whole network, keep every group's first round(width) ranks at the threshold 1.

    A channel of rank j scores width / (j + 1/2); another threshold t keeps round(width / t) of each group, so all
    learned widths grow and shrink in proportion.

    Args:
        order: int64 [channels], the group's channels from the best to the worst.
        width: channels the group is to keep.

    Returns:
        float64 [channels]
    """
    ranks = torch.empty(len(order), dtype=torch.float64)
    ranks[order] = torch.arange(len(order), dtype=torch.float64)
    return width / (ranks + 0.5)


def shifted(logits: Mapping[str, Tensor], shift: float) -> dict[str, Tensor]:
    """All logits with a number added."""
    return {name: values + shift for name, values in logits.items()}
