"""Groups whose sizes only the network's code ties: they are one group if they can go together and not alone.

Code may read the width of one tensor to shape another, as attention does with the width of what comes in and that of
the queries: the same number of channels has to go from both, whichever they are.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.channels.budget import Budget
from bench.channels.exchange import SIZE_IN_CODE, faults, without
from bench.channels.modes import without_chance
from bench.torch_utils.hooks import inputs_seen

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup, Member


def joined_by_size(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    free: Sequence[ChannelGroup],
    loose: Sequence[ChannelGroup],
    wrong: Mapping[str, str],
    images: Tensor,
    budget: Budget,
) -> tuple[list[ChannelGroup], dict[str, str]]:
    """Makes groups one that have as many positions each and cannot go by themselves, if together they can.

    Args:
        model: the network the groups were found in; left as it was.
        groups: all its groups.
        free: those that were tried.
        loose: channels that no layer makes; they go with a group or stay.
        wrong: group name -> why it cannot go.
        images: what they were tried with (`bench.channels.exchange.faults`).
        budget: the time for trying.

    Returns:
        All groups, and why some of those that were tried cannot go.
    """
    by_width: dict[int, list[ChannelGroup]] = defaultdict(list)
    for group in free:
        if wrong.get(group.name, "").startswith(SIZE_IN_CODE):
            by_width[len(_narrowest(group).positions)].append(group)
    others: dict[int, list[ChannelGroup]] = defaultdict(list)
    for group in loose:
        others[len(_narrowest(group).positions)].append(group)
    tied = [_at_once(model, parts, images) for parts in by_width.values()]
    # Only where layers by themselves do not do.
    tied = [
        _at_once(model, [*every, *others[wide]], images) if len(parts) == 1 and others[wide] else parts
        for parts, (wide, every) in zip(tied, by_width.items(), strict=True)
    ]
    found = {parts[0].name: (parts, as_one(parts)) for parts in tied if len(parts) > 1}
    found = {name: (parts, one) for name, (parts, one) in found.items() if one is not None}
    if not found:
        return list(groups), dict(wrong)
    right = [group for group in free if group.name not in wrong]
    still = faults(model, [*right, *(one for _, one in found.values())], images, budget)
    found = {name: pair for name, pair in found.items() if name not in still}
    inside = {part.name for parts, _ in found.values() for part in parts}
    kept = [found[group.name][1] if group.name in found else group for group in groups]
    kept = [group for group in kept if group.name in found or group.name not in inside]
    reasons = {name: reason for name, reason in wrong.items() if name not in inside}
    return kept, reasons | {name: reason for name, reason in still.items() if name not in wrong}


def _at_once(model: nn.Module, parts: Sequence[ChannelGroup], images: Tensor) -> list[ChannelGroup]:
    """Those of some groups that can lose a channel at once: where that fails, what ran last is left out."""
    left = list(parts)
    while len(left) > 1:
        one = as_one(left)
        if one is None:
            left.remove(min(left, key=lambda group: group.channels))
            continue
        small = without(model, [one], {one.name: torch.tensor([one.channels - 1])})
        makers = {
            layer: group
            for group in left
            for layer in [p.layer.layer for p in group.producers] or [scale.layer for scale in group.scales]
        }
        ran = [left[-1]]
        try:
            with torch.no_grad(), inputs_seen(small, makers, lambda name, _, ran=ran, of=makers: ran.append(of[name])):
                for is_training in (False, True):
                    with without_chance(small, is_training):
                        small(images[:1])
            break
        except Exception:  # noqa: BLE001  a network's own code
            left = [group for group in left if group is not ran[-1]]
    return left


def as_one(parts: Sequence[ChannelGroup]) -> ChannelGroup | None:
    """A group of several that have as many positions each: the n-th position of all goes together.

    Where some can only go by larger units than others, all go by the largest, in its pattern; None if they do not fit,
    or if no layer makes the first.
    """
    if not parts[0].producers:
        return None
    like = parts[0].producers[0].layer
    coarsest = min(parts, key=lambda group: group.channels)
    pattern = _channel_of(coarsest)
    sides: dict[str, dict[tuple[str, str], list[tuple[Tensor, Tensor]]]] = defaultdict(lambda: defaultdict(list))
    norm_of: dict[str, str | None] = {}
    for part in parts:
        channels = torch.empty(part.channels, dtype=torch.int64)
        channels[_channel_of(part)] = pattern
        if not torch.equal(channels[_channel_of(part)], pattern):
            return None
        norm_of |= {one.layer.layer: one.norm and one.norm.layer for one in part.producers}
        kinds = {"producers": [one.layer for one in part.producers], "norms": part.norms, "depthwise": part.depthwise}
        for kind, members in (kinds | {"consumers": part.consumers, "scales": part.scales}).items():
            for member in members:
                sides[kind][member.layer, member.side].append((member.positions, channels[member.channels]))
    found = {kind: tuple(_member(like, key, pieces) for key, pieces in of.items()) for kind, of in sides.items()}
    norms = {member.layer: member for member in found.get("norms", ())}
    producers = tuple(
        replace(parts[0].producers[0], layer=member, norm=norms.get(norm_of[member.layer] or ""))
        for member in found.pop("producers")
    )
    structure = tuple(sorted(side for part in parts for side in part.structure))
    unit = len(producers[0].layer.positions) // coarsest.channels
    whole = replace(parts[0], channels=coarsest.channels, unit=unit, structure=structure, producers=producers)
    return replace(whole, **found)


def _member(like: Member, key: tuple[str, str], pieces: Sequence[tuple[Tensor, Tensor]]) -> Member:
    positions, channels = (torch.cat(parts) for parts in zip(*pieces, strict=True))
    order = torch.argsort(channels, stable=True)
    return replace(like, layer=key[0], side=key[1], positions=positions[order], channels=channels[order])


def _channel_of(group: ChannelGroup) -> Tensor:
    """int64 [positions], the channel of each position of the narrowest member, in their order."""
    member = _narrowest(group)
    return member.channels[member.positions.argsort()]


def _narrowest(group: ChannelGroup) -> Member:
    """The side with the fewest positions: where code makes queries, keys and values at once, as many as each has."""
    return min(group.members, key=lambda member: len(member.positions))
