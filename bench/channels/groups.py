"""Coupled channels: everything in a network that must shrink together, found once per network, as plain data.

Which positions of which side of which layer belong to which channel: scoring, planning, cost prediction and cutting
need nothing else.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.channels.exchange import faults
from bench.channels.layer_axes import IN, NORMS, OUT, WEIGHTED, is_depthwise
from bench.channels.protection import FIRST, IGNORED, OUTPUT, UNUSED, reasons_to_protect
from bench.channels.tracing import Traced, smallest_size, trace
from bench.torch_utils.dry_run import blank_image


@dataclass(frozen=True, eq=False)
class Member:
    """One side of one layer, as far as it belongs to a group.

    Attributes:
        layer: module name.
        side: OUT or IN.
        positions: int64 [K], positions on that side.
        channels: int64 [K], the group's channel each position belongs to.
    """

    layer: str
    side: str
    positions: Tensor
    channels: Tensor

    def gather(self, values: Tensor, count: int) -> Tensor:
        """Sums a layer's per-position values over the positions of each channel of the group.

        Args:
            values: [width of this side].
            count: number of channels of the group.

        Returns:
            [count]
        """
        picked = values.index_select(0, self.positions.to(values.device))
        return values.new_zeros(count).index_add_(0, self.channels.to(values.device), picked)


@dataclass(frozen=True, eq=False)
class Producer:
    """A layer that makes channels of a group, and the normalisation right behind it."""

    layer: Member
    norm: Member | None


@dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Channels that can only be removed together.

    Attributes:
        name: its first producer.
        channels: how many coupled channels there are.
        producers: layers whose outputs they are (several where outputs are added up).
        norms: normalisation layers they pass, whether right behind a producer or not.
        depthwise: depthwise convolutions, and activations with a slope a channel, that they pass.
        consumers: layers that read them.
        unit: channels that can only go together (1, or the width of an attention head).
        protected: why none may be removed, or None.
        structure: type and side of each layer that shrinks with the group, in alphabetical order.
    """

    name: str
    channels: int
    producers: tuple[Producer, ...]
    norms: tuple[Member, ...]
    depthwise: tuple[Member, ...]
    consumers: tuple[Member, ...]
    unit: int = 1
    protected: str | None = None
    structure: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """Every side of every layer that shrinks with the group, each once."""
        return (*(producer.layer for producer in self.producers), *self.norms, *self.depthwise, *self.consumers)


def find_groups(
    model: nn.Module,
    *,
    ignore: Sequence[str] = (),
    protect_first: bool = False,
    check: bool = True,
    trace_size: tuple[int, int] | None = None,
) -> list[ChannelGroup]:
    """Finds the groups of coupled channels of a network.

        >>> groups = find_groups(model, ignore=["bottleneck.*"])
        >>> len(groups), len(prunable(groups))
        (18, 15)
        >>> groups[1].name, groups[1].channels, [reader.layer for reader in groups[1].consumers]
        ('downs.0.conv.3', 16, ['downs.1.conv.0', 'ups.5.conv.0'])
        >>> groups[6].protected, groups[-1].protected
        ("ignored by 'bottleneck.*'", 'network output')

    Args:
        model: any network whose layers are in `bench.channels.layer_axes`; left as it was.
        ignore: patterns (`fnmatch`) of layer names whose output channels stay.
        protect_first: whether the first layer's output channels stay.
        check: whether groups are tried out on the network before they are believed; what fails is protected.
        trace_size: (height, width) in pixels of the image that the network is run with; by default the smallest of
            some usual sizes that it runs at, from 64x64 upwards.

    Returns:
        All groups in the order of their first producers, the protected ones included.

    Raises:
        UsageError: a pattern matches no layer that makes channels.
        BenchError: the network cannot be traced.
    """
    # A copy, because a forward pass in training mode may change a network, and a failed one leaves hooks behind.
    model = copy.deepcopy(model)
    layers = dict(model.named_modules())
    order = {name: position for position, name in enumerate(layers)}
    size = trace_size or smallest_size(model)
    traced = trace(model, size)
    groups = sorted((_as_group(one, layers, order) for one in traced), key=lambda group: order[group.name])
    reasons = reasons_to_protect(model, groups, traced, ignore, protect_first, size)
    if check:
        free = [group for group in groups if group.name not in reasons]
        reasons |= faults(model, free, blank_image(model, size))
    return [replace(group, protected=reasons.get(group.name)) for group in groups]


def prunable(groups: Iterable[ChannelGroup]) -> list[ChannelGroup]:
    """The groups channels may be removed from."""
    return [group for group in groups if group.protected is None]


def layers_to_spare(groups: Iterable[ChannelGroup]) -> set[str]:
    """Layers no method is to touch: those that make the network's outputs, auxiliary heads, what the user protects.

    Channels may stay for other reasons too, which say nothing about single weights.
    """
    spared = [group for group in groups if (group.protected or "").startswith((OUTPUT, UNUSED, FIRST, IGNORED))]
    return {producer.layer.layer for group in spared for producer in group.producers}


def group_sides(groups: Iterable[ChannelGroup]) -> dict[tuple[str, str], list[tuple[ChannelGroup, Member]]]:
    """(layer, side) -> the groups its positions belong to; a layer behind a concat reads several."""
    sides: dict[tuple[str, str], list[tuple[ChannelGroup, Member]]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            sides[member.layer, member.side].append((group, member))
    return sides


def _as_group(traced: Traced, layers: dict[str, nn.Module], order: dict[str, int]) -> ChannelGroup:
    """Sorts the sides that channels reach by what the layers do with them."""
    sides = sorted(traced.sides, key=lambda side: order[side.layer])
    norm_behind = {side.layer: side.norm_behind for side in sides}
    ordered = [
        Member(side.layer, side.side, torch.tensor(side.positions), torch.tensor(side.channels)) for side in sides
    ]
    made = [m for m in ordered if m.side == OUT and isinstance(layers[m.layer], WEIGHTED)]
    norms = {m.layer: m for m in ordered if isinstance(layers[m.layer], NORMS)}
    filters = [m for m in made if not is_depthwise(layers[m.layer])]
    producers = tuple(Producer(m, norms.get(norm_behind[m.layer])) for m in filters)
    depthwise = tuple(m for m in ordered if m.side == OUT and m not in filters and m.layer not in norms)
    consumers = tuple(m for m in ordered if m.side == IN and not is_depthwise(layers[m.layer]))
    name = (producers[0].layer if producers else ordered[0]).layer
    structure = tuple(sorted(f"{type(layers[m.layer]).__name__} {m.side}" for m in ordered))
    return ChannelGroup(
        name, traced.channels, producers, tuple(norms.values()), depthwise, consumers, structure=structure
    )  # fmt: skip
