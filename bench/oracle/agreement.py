"""How well scores agree with the truth: overlap of the least important channels, rank correlation, chance, noise.

All functions take importances of the same channels, larger = keep. Equal values have no order of their own; they are
ordered at random, alike on both sides, several times, and the results averaged.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from bench.rounding import share_up

TIE_BREAKS = 5

Importances = Mapping[str, Tensor]
"""Group name -> [channels]."""


def bottom(values: Tensor, count: int, seed: int) -> Tensor:
    """Marks the smallest values.

    Args:
        values: [..., C].
        count: how many.
        seed: seed of the order of equal values.

    Returns:
        bool [..., C]
    """
    order = torch.randperm(values.shape[-1], generator=torch.Generator().manual_seed(seed))
    first = values[..., order].argsort(dim=-1, stable=True)[..., :count]
    return torch.zeros(values.shape, dtype=torch.bool).scatter_(-1, order[first], True)


def overlap(scores: Tensor, truth: Tensor, ratio: float) -> Tensor:
    """Share of the truth's least important channels that the scores name too.

    Args:
        scores: [C].
        truth: [..., C].
        ratio: share of the channels that are looked at.

    Returns:
        float64 [...]
    """
    count = share_up(ratio, scores.shape[-1])
    orders = range(TIE_BREAKS if _has_ties(scores) or _has_ties(truth) else 1)
    shared = [(bottom(scores, count, seed) & bottom(truth, count, seed)).sum(-1) for seed in orders]
    return torch.stack(shared).double().mean(0) / count


def _has_ties(values: Tensor) -> bool:
    return bool((values.sort(dim=-1).values.diff(dim=-1) == 0).any())


def above_chance(found: float, chance: float) -> float:
    """Overlap as a share of what can be had above chance: 0 for random scores, 1 for the truth itself."""
    return (found - chance) / (1 - chance) if chance < 1 else math.nan


def ranks(values: Tensor) -> Tensor:
    """float64 [C], ranks from 0; equal values share the mean of theirs."""
    _, place, counts = values.unique(return_inverse=True, return_counts=True)
    last = counts.cumsum(0).double() - 1
    return (last - (counts - 1) / 2)[place]


def spearman(scores: Tensor, truth: Tensor) -> float:
    """Spearman's rank correlation of two [C]; nan where either is constant."""
    pair = [rank - rank.mean() for rank in (ranks(scores), ranks(truth))]
    scale = math.prod(float(rank.norm()) for rank in pair)
    return float(pair[0] @ pair[1]) / scale if scale else math.nan


def kendall(scores: Tensor, truth: Tensor) -> float:
    """Kendall's tau-b of two [C]; nan where either is constant."""
    agree = first = second = 0
    # Some rows of the table of all pairs at a time: pooled channels may be tens of thousands.
    for rows in torch.arange(len(scores)).split(256):
        one, other = (torch.sign(values[rows, None] - values) for values in (scores.double(), truth.double()))
        agree += int((one * other).sum())
        first, second = first + int(one.abs().sum()), second + int(other.abs().sum())
    scale = math.sqrt(first * second)
    return agree / scale if scale else math.nan


def agreement(scores: Importances, truth: Importances, ratios: Sequence[float]) -> dict[str, Any]:
    """How far scores agree with the truth, in each group by itself and over all channels as one.

    Args:
        scores: of some groups.
        truth: of those groups at least.
        ratios: shares of each group's channels whose overlap is wanted.

    Returns:
        `groups`: how many were compared; `overlap`: ratio -> `mean` over the groups, `chance` (what random scores
        get) and `above_chance`; `spearman`, `kendall`: means over the groups whose values differ;
        `spearman_pooled`, `kendall_pooled`: of all channels together.
    """
    pairs = [(scores[name].double(), truth[name].double()) for name in scores]
    overlaps = {}
    for ratio in ratios:
        chances = [share_up(ratio, len(one)) / len(one) for one, _ in pairs]
        found = [float(overlap(*pair, ratio)) for pair in pairs]
        overlaps[ratio] = {
            "mean": _mean(found),
            "chance": _mean(chances),
            "above_chance": _mean(list(map(above_chance, found, chances))),
        }
    pooled = [torch.cat(side) for side in zip(*pairs, strict=True)]
    return {
        "groups": len(pairs),
        "overlap": overlaps,
        **{function.__name__: _mean([function(*pair) for pair in pairs]) for function in (spearman, kendall)},
        **{f"{function.__name__}_pooled": function(*pooled) for function in (spearman, kendall)},
    }


def overlap_error(scores: Importances, resampled: Importances, ratio: float) -> float:
    """Standard error of the mean overlap, from truths [resamples, C] of resampled images."""
    return float(torch.stack([overlap(scores[name], resampled[name], ratio) for name in scores]).mean(0).std())


def ceiling(
    truth_of: Callable[[Tensor], Importances], images: int, ratios: Sequence[float], splits: int
) -> dict[str, Any]:
    """How far the truths of two halves of the images agree: no score can be expected to agree better than that.

    It is too low rather than too high, because each half is noisier than the whole.

    Args:
        truth_of: the truth measured on some of the images, int64 [n].
        images: how many there are, at least 2.
        ratios: as in `agreement`.
        splits: how many random splits the result is the mean of.

    Returns:
        What `agreement` returns.
    """
    found = []
    for seed in range(splits):
        order = torch.randperm(images, generator=torch.Generator().manual_seed(seed))
        halves = order[: images // 2], order[images // 2 : images // 2 * 2]
        found.append(agreement(*map(truth_of, halves), ratios))
    return _mean_of_records(found)


def gain(random: float, method: float, oracle: float) -> float:
    """How much of what the oracle's choice of channels saves over a random one a method's saves; nan if nothing."""
    return (random - method) / (random - oracle) if random > oracle else math.nan


def _mean(values: Sequence[float]) -> float:
    """Mean of the values that are known."""
    known = [value for value in values if not math.isnan(value)]
    return sum(known) / len(known) if known else math.nan


def _mean_of_records(records: Sequence[Mapping[Any, Any]]) -> dict[Any, Any]:
    """Records of the same numbers, averaged number by number."""
    return {
        key: _mean_of_records([record[key] for record in records])
        if isinstance(first, Mapping)
        else (first if isinstance(first, int) else _mean([record[key] for record in records]))
        for key, first in records[0].items()
    }
