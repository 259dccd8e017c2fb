"""Scores of filters: their norms, and how those of several layers that make the same channels are merged."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.channels.layer_axes import out_filters


def filter_norm(filters: Tensor, order: int) -> Tensor:
    """The L1 or L2 norm of each filter: [C, K] -> [C]."""
    return torch.linalg.vector_norm(filters, ord=order, dim=1)


def rated_filters(model: nn.Module, group: ChannelGroup, rate: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Rates the filters of every layer that makes a group's channels.

    Args:
        model: the network of the group.
        group: some channels.
        rate: one layer's filters [out channels, weights a filter] -> [out channels].

    Returns:
        [channels] for each producer.
    """
    makers = [producer.layer for producer in group.producers]
    return [maker.gather(rate(out_filters(model.get_submodule(maker.layer))), group.channels) for maker in makers]


def relative_to_mean(scores: Tensor) -> Tensor:
    """Scores over their mean: [C] -> float64 [C]; scores that are all zero stay so."""
    scores = scores.double()
    return scores / scores.mean().clamp_min(torch.finfo(torch.float64).tiny)


def merge_normalised(members: Sequence[Tensor]) -> Tensor:
    """Merges the scores several layers give to the same channels: each over its mean, then their mean.

    Args:
        members: [C] each, non-negative.

    Returns:
        [C]; the mean of the result is 1 unless all scores are zero.
    """
    return torch.stack([relative_to_mean(scores) for scores in members]).mean(dim=0)
