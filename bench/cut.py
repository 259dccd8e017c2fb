"""Removes the channels a plan does not keep, from every layer that has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from bench.groups import ChannelGroup, find_groups, group_sides
from bench.layers import keep_channels, width
from bench.models import ModelSpec, build_model
from bench.plan import PruningPlan


def fresh_network(spec: ModelSpec, plan: PruningPlan, seed: int) -> nn.Module:
    """The network that a plan leaves of the dense one, with fresh weights, in evaluation mode.

    Args:
        spec: how the dense network is built.
        plan: what to keep, in the channel numbers of the dense network.
        seed: seed of the weights.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(spec)
    cut(model, find_groups(model), plan)
    return model.eval()


def cut(model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> None:
    """Cuts a network in place; each side of each layer is sliced once.

    The groups describe the network before the cut and do not fit it afterwards.

    Args:
        model: the network the groups were found in.
        groups: all its groups.
        plan: what to keep.
    """
    layers = dict(model.named_modules())
    for (name, side), parts in group_sides(groups).items():
        layer = layers[name]
        stays = torch.ones(width(layer, side), dtype=torch.bool)
        for group, member in parts:
            kept = plan.kept.get(group.name)
            if kept is None or len(kept) == group.channels:
                continue
            lost = torch.ones(group.channels, dtype=torch.bool)
            lost[kept] = False
            stays[member.positions[lost[member.channels]]] = False
        if not stays.all():
            keep_channels(layer, side, stays.nonzero().flatten())
