"""The repair of a network after a cut, on a session's images: the layers first, then the statistics of the norms."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.plan.pruning_plan import PruningPlan
from bench.recover.options import RepairOptions
from bench.recover.repair import repair
from bench.recover.statistics_choice import settle_statistics
from bench.torch_utils.batches import Batch

Draw = Callable[[int], Sequence[Batch]]
"""So many training images, always the same first ones: fewer where there are not as many."""


def repair_network(
    before: nn.Module,
    network: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    options: RepairOptions,
    draw: Draw,
    *,
    recalibration_images: int,
    batch_size: int,
    ignore_index: int,
    seed: int,
    spared: Collection[str] = (),
) -> dict[str, Any]:
    """Repairs a network in place, and settles the statistics of its norms.

    Args:
        before: the network before the cut.
        network: the same after it, on the same device.
        groups: all groups of the network before the cut.
        plan: what was kept, in its channel numbers.
        options: how.
        draw: training images. The first are looked at; statistics are estimated on the first, too; what decides about
            them comes behind these, and overlaps with them only where there are not enough.
        recalibration_images: how many statistics may be estimated on; 0 leaves them as they are.
        batch_size: images that statistics see at once.
        ignore_index: label that does not count.
        seed: seed of the choice of positions.
        spared: layers whose weights stay as they are.

    Returns:
        The record of it, plain data.
    """
    rule = options.repair_statistics if recalibration_images else "none"
    wanted = options.repair_images
    if rule != "none":
        wanted = max(wanted, recalibration_images) + (options.repair_holdout if rule == "auto" else 0)
    images, labels = (torch.cat(parts) for parts in zip(*_alike(draw(wanted)), strict=True))
    held = options.repair_holdout if rule == "auto" else 0
    if len(images) < wanted:
        held = min(held, max(1, len(images) // 4))
    seen = images[: max(1, min(options.repair_images, len(images) - held))]
    done = repair(before, network, groups, plan, seen, options, seed, spared)
    estimated = slice(0, recalibration_images)
    statistics = settle_statistics(
        network,
        done,
        rule if done.layers else "none",
        _batches(images[estimated], labels[estimated], batch_size),
        _batches(images[len(images) - held :], labels[len(images) - held :], batch_size),
        ignore_index,
    )
    return {"options": asdict(options), **done.as_record(), "statistics": {**statistics, "held_out": held}}


def _alike(batches: Sequence[Batch]) -> list[Batch]:
    """The batches whose images are as large as the first ones: all run through the network together."""
    return [batch for batch in batches if batch[0].shape[1:] == batches[0][0].shape[1:]]


def _batches(images: Tensor, labels: Tensor, size: int) -> list[Batch]:
    return list(zip(images.split(size), labels.split(size), strict=True))
