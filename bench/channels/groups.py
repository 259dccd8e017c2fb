"""Coupled channels: everything in a network that must shrink together, found once per network, as plain data.

Which positions of which side of which layer belong to which channel: scoring, planning, cost prediction and cutting
need nothing else.
"""

from __future__ import annotations

import copy
import itertools
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor, nn

from bench.channels.budget import Budget
from bench.channels.exchange import faults
from bench.channels.joining import joined_by_size
from bench.channels.layer_axes import IN, NORMS, OUT, WEIGHTED, is_depthwise
from bench.channels.protection import FIRST, IGNORED, UNUSED, reasons_to_protect
from bench.channels.tracing import OUTPUT, Traced, TracedSide, traced_at
from bench.errors import BenchError, first_line
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.network_form import USUAL_SIZES, form_of


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
        scales: tensors outside of the layers of the table that they pass, such as a scale a channel.
        unit: positions of its first producer that a channel takes: 1, or as many as can only go together, such as those
            of a head, of a group of a convolution, or the same one of each part that code splits an axis into.
        protected: why none may be removed, or None.
        structure: type and side of each layer that shrinks with the group, in alphabetical order.
    """

    name: str
    channels: int
    producers: tuple[Producer, ...]
    norms: tuple[Member, ...]
    depthwise: tuple[Member, ...]
    consumers: tuple[Member, ...]
    scales: tuple[Member, ...] = ()
    unit: int = 1
    protected: str | None = None
    structure: tuple[str, ...] = ()

    @property
    def members(self) -> tuple[Member, ...]:
        """Every side of every layer that shrinks with the group, each once."""
        return (
            *(producer.layer for producer in self.producers),
            *self.norms,
            *self.depthwise,
            *self.consumers,
            *self.scales,
        )


def find_groups(
    model: nn.Module,
    *,
    ignore: Sequence[str] = (),
    protect_first: bool = False,
    check: bool = True,
    trace_size: tuple[int, int] | None = None,
    input_size: tuple[int, int] | None = None,
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
        input_size: (height, width) in pixels to try where it runs at none of these.

    Returns:
        All groups in the order of their first producers, the protected ones included.

    Raises:
        UsageError: a pattern matches no layer that makes channels.
        BenchError: the network cannot be copied or traced.
    """
    kind = type(model).__name__
    # A copy, because a forward pass in training mode may change a network, and a failed one leaves hooks behind.
    try:
        model = copy.deepcopy(model)
    except Exception as error:
        raise BenchError(
            f"cannot copy {kind} ({first_line(error)}); it must hold no locks or open files, no results "
            "of a pass with gradients, and no old-style weight norm or masks (torch.nn.utils.remove_weight_norm, "
            "torch.nn.utils.prune.remove)"
        ) from error
    budget = Budget()
    only = trace_size or form_of(model).trace_size
    trace = traced_at(model, [only] if only else [*USUAL_SIZES, *([input_size] if input_size else [])], budget)
    size = trace.size
    while True:
        channels = trace.channels()
        found = _as_groups(channels, trace.norm_behind, model)
        groups, traced = [group for group, _ in found], [one for _, one in found]
        reasons = reasons_to_protect(model, groups, traced, trace.run, ignore, protect_first)
        free = [group for group in groups if group.name not in reasons]
        images = blank_image(model, size)
        wrong = faults(model, free, images, budget) if check else {}
        if wrong:
            groups, wrong = joined_by_size(model, groups, free, _made_by_none(channels, model), wrong, images, budget)
        # Where an axis is taken apart, either whole parts can go or the same of each; the network tells which.
        labels = {label for group, one in found if group.name in wrong for label in one.labels}
        if not labels or budget.is_spent or not trace.choose_others(labels):
            break
    reasons |= wrong
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


def _as_groups(
    channels: Iterable[Traced], norm_behind: dict[str, str], model: nn.Module
) -> list[tuple[ChannelGroup, Traced]]:
    """The groups of channels that layers make, in the order of their first producers, and what is known of each."""
    layers = dict(model.named_modules())
    order = {name: position for position, name in enumerate(layers)}
    found = [(_as_group(one, layers, order, norm_behind), one) for one in channels if _is_made(one, layers)]
    found.sort(key=lambda pair: (order[pair[0].name], _first_position(pair[0])))
    names: set[str] = set()
    for number, (group, one) in enumerate(found):
        if group.name in names:
            own = next((p.layer.layer for p in group.producers if p.layer.layer not in names), None)
            if own is None:
                one = replace(one, obstacle=one.obstacle or "other layers read the rest of their layer's channels")
                own = next(f"{group.name}#{k}" for k in itertools.count(2) if f"{group.name}#{k}" not in names)
            found[number] = replace(group, name=own), one
        names.add(found[number][0].name)
    return found


def _made_by_none(channels: Iterable[Traced], model: nn.Module) -> list[ChannelGroup]:
    """Channels that no layer of the table makes, such as those in torch's attention: they go with others or stay."""
    layers = dict(model.named_modules())
    order = {name: position for position, name in enumerate(layers)}
    return [
        _as_group(one, layers, order, {})
        for one in channels
        if one.channels > 1 and one.obstacle is None and not one.is_output and not _is_made(one, layers)
    ]


def _is_made(traced: Traced, layers: dict[str, nn.Module]) -> bool:
    return any(side.side == OUT and isinstance(layers[side.layer], WEIGHTED) for side in traced.sides)


def _first_position(group: ChannelGroup) -> int:
    return int(group.members[0].positions.min())


def _as_group(
    traced: Traced, layers: dict[str, nn.Module], order: dict[str, int], norm_behind: dict[str, str]
) -> ChannelGroup:
    """Sorts the sides that channels reach by what the layers do with them."""
    sides = sorted(traced.sides, key=lambda side: order[side.layer])
    makers = (side for side in sides if side.side == OUT and isinstance(layers[side.layer], WEIGHTED))
    first = next(makers, sides[0])
    # Channels are numbered in the order in which their first layer makes them.
    ordered = [_as_member(side, np.argsort(first.positions[:, 0], kind="stable")) for side in sides]
    made = [m for m in ordered if m.side == OUT and isinstance(layers[m.layer], WEIGHTED)]
    norms = {m.layer: m for m in ordered if m.side == OUT and isinstance(layers[m.layer], NORMS)}
    filters = [m for m in made if not is_depthwise(layers[m.layer])]
    producers = tuple(Producer(m, norms.get(norm_behind.get(m.layer, ""))) for m in filters)
    depthwise = tuple(m for m in ordered if m.side == OUT and m not in filters and m.layer not in norms)
    consumers = tuple(m for m in ordered if m.side == IN and not is_depthwise(layers[m.layer]))
    scales = tuple(m for m in ordered if m.side not in (OUT, IN))
    named = producers[0].layer if producers else ordered[0]
    structure = tuple(sorted(f"{type(layers[m.layer]).__name__} {m.side}" for m in ordered))
    unit = len(named.positions) // traced.channels
    return ChannelGroup(
        name=named.layer,
        channels=traced.channels,
        producers=producers,
        norms=tuple(norms.values()),
        depthwise=depthwise,
        consumers=consumers,
        scales=scales,
        unit=unit,
        structure=structure,
    )


def _as_member(side: TracedSide, order: np.ndarray) -> Member:
    positions = torch.from_numpy(side.positions[order].copy())
    channels = torch.arange(len(positions)).repeat_interleave(positions.shape[1])
    return Member(side.layer, side.side, positions.flatten(), channels)
