"""Which positions of layers stay when channels of groups go."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import keep_sides, width

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup

Positions = dict[tuple[str, str], Tensor]
"""(layer, side) -> int64 [K], positions that stay, ascending."""


def positions_left(model: nn.Module, groups: Iterable[ChannelGroup], gone: Mapping[str, Tensor]) -> Positions:
    """The positions that stay, for every side of a layer that loses some.

    Args:
        model: the network the groups were found in.
        groups: those that may lose channels.
        gone: group name -> bool [channels], which go; groups that are not named lose none.
    """
    stays: Positions = {}
    for group in groups:
        lost = gone.get(group.name)
        if lost is None or not lost.any():
            continue
        for member in group.members:
            key = member.layer, member.side
            if key not in stays:
                stays[key] = torch.ones(width(model.get_submodule(member.layer), member.side), dtype=torch.bool)
            stays[key][member.positions[lost[member.channels]]] = False
    return {key: stay.nonzero().flatten() for key, stay in stays.items()}


def keep_positions(model: nn.Module, positions: Positions) -> None:
    """Narrows the layers of a network in place, each once."""
    of_layer: dict[str, dict[str, Tensor]] = defaultdict(dict)
    for (name, side), kept in positions.items():
        of_layer[name][side] = kept
    for name, sides in of_layer.items():
        keep_sides(model.get_submodule(name), sides)
