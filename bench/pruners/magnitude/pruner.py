"""Unstructured magnitude pruning, module-aware: a table says which category of layers loses which share of weights.

The recipe of TokenC3-LSNet.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.pruners.base import Sparsifier, Sparsity
from bench.pruners.magnitude.rules import Rule, Weight, read_rules, weights_of

SCOPES = ("layer", "category")


def magnitude_importance(weights: Tensor) -> Tensor:
    """`0.7 * |w| + 0.3 * w^2` of each weight, as float64: rounding makes no ties."""
    size = weights.double().abs()
    return 0.7 * size + 0.3 * size.square()


def least_important(importance: Tensor, count: int) -> Tensor:
    """bool [N], true for exactly `count` weights, the least important ones; among equals those that come first."""
    if count == 0:
        return torch.zeros(len(importance), dtype=torch.bool, device=importance.device)
    last = importance.kthvalue(count).values
    chosen = importance < last
    equals = (importance == last).nonzero().flatten()
    chosen[equals[: count - int(chosen.sum())]] = True
    return chosen


def zero_counts(sizes: Sequence[int], ratios: Sequence[float], total: int, keep: Sequence[int]) -> list[int]:
    """How many weights each pool loses: `round(scale * ratio * size)`, the scale such that they are `total` together.

    A pool that has lost all it can stays there, and the others' scale grows on. No pool's count falls when `total`
    grows, and where several pools round at the same scale, the first ones round up first.

    Args:
        sizes: weights of each pool.
        ratios: the table's share of each, in [0, 1).
        total: weights to zero.
        keep: the fewest weights that stay in each.

    Returns:
        One count a pool, their sum being `total`, or less where no more can go.
    """
    size, ratio = np.array(sizes, dtype=np.float64), np.array(ratios, dtype=np.float64)
    most = np.where(ratio > 0, np.array(sizes) - np.array(keep), 0).astype(np.int64)

    def counts(scale: float) -> np.ndarray:
        return np.minimum(np.floor(scale * (ratio * size) + 0.5).astype(np.int64), most)

    if total >= most.sum():
        return most.tolist()
    # At the upper end every pool has lost all it can, so the total lies between the two.
    low, high = 0.0, 1.0 / ratio[ratio > 0].min()
    while low < (middle := (low + high) / 2) < high:
        low, high = (middle, high) if counts(middle).sum() <= total else (low, middle)
    found = counts(low)
    for pool in np.flatnonzero(counts(high) > found)[: total - found.sum()]:
        found[pool] += 1
    return found.tolist()


@dataclass(frozen=True)
class Magnitude(Sparsifier):
    """Zeroes the least important weights, category by category; see `read_rules` for the table."""

    rules: str = option(
        "configs/magnitude_segmentation.yaml", "file of the table: which kind of layer loses which share of its weights"
    )
    scope: str = option("layer", "rank the weights of each layer (layer), or of all layers of a category (category)")
    table: tuple[Rule, ...] = field(init=False)

    name: ClassVar[str] = "magnitude"
    paper: ClassVar[str] = "the TokenC3-LSNet recipe (module-aware magnitude sparsity)"

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise UsageError(f"option scope of magnitude must be {' or '.join(SCOPES)}, not '{self.scope}'")
        # Read at once: a table that is wrong is found before any work, and what it says is part of the record.
        object.__setattr__(self, "table", read_rules(self.rules))

    def choose(self, model: nn.Module, spared: Collection[str], sparsity: float) -> Sparsity:
        everything = list(weights_of(model, self.table))
        weights = [w for w in everything if w.layer not in spared and w.rule is not None and w.rule.ratio > 0]
        if not weights:
            raise BenchError(f"no weight of the network has a rule with a ratio in {self.rules}; add a rule that fits")
        pools = self._pools(weights)
        sizes, ratios = [_size(pool) for pool in pools], [pool[0].rule.ratio for pool in pools]
        total = int(sparsity * sum(sizes) + 0.5)
        counts = zero_counts(sizes, ratios, total, keep=[len(pool) for pool in pools])
        if sum(counts) < total:
            raise BenchError(
                f"{sparsity:g} of the weights cannot go: a layer keeps one weight; ask for a smaller share"
            )
        zeroed: dict[str, Tensor] = {}
        for pool, count in zip(pools, counts, strict=True):
            zeroed |= _zeroed(pool, count)
        left = [w for w in everything if w.name not in zeroed]
        return Sparsity(zeroed, self._record(sparsity, weights, left, zeroed))

    def _pools(self, weights: Sequence[Weight]) -> list[list[Weight]]:
        """The weights that are ranked together."""
        if self.scope == "layer":
            return [[weight] for weight in weights]
        ordered = sorted(weights, key=lambda weight: self.table.index(weight.rule))
        return [list(pool) for _, pool in groupby(ordered, key=lambda weight: weight.rule)]

    def _record(
        self, sparsity: float, weights: Sequence[Weight], left: Sequence[Weight], zeroed: dict[str, Tensor]
    ) -> dict[str, Any]:
        gone = {name: int(zeros.sum()) for name, zeros in zeroed.items()}
        categories = {}
        for rule in self.table:
            members = [weight for weight in weights if weight.rule == rule]
            if members:
                count = sum(gone[weight.name] for weight in members)
                categories[rule.category] = {
                    "table_ratio": rule.ratio,
                    "layers": len(members),
                    "weights": _size(members),
                    "zeroed": count,
                    "sparsity": count / _size(members),
                }
        size = _size(weights)
        return {
            "asked": sparsity,
            "reached": sum(gone.values()) / size,
            "weights": size,
            "zeroed": sum(gone.values()),
            "table_sparsity": sum(weight.rule.ratio * weight.values.numel() for weight in weights) / size,
            "categories": categories,
            "left_alone": [weight.name for weight in left],
        }


def _size(weights: Sequence[Weight]) -> int:
    return sum(weight.values.numel() for weight in weights)


def _zeroed(pool: Sequence[Weight], count: int) -> dict[str, Tensor]:
    """Where the `count` least important weights of a pool are; every layer keeps its most important one."""
    importances = [magnitude_importance(weight.values).flatten() for weight in pool]
    for importance in importances:
        importance[importance.argmax()] = torch.inf
    chosen = least_important(torch.cat(importances), count).split([len(importance) for importance in importances])
    return {weight.name: part.view(weight.values.shape) for weight, part in zip(pool, chosen, strict=True)}
