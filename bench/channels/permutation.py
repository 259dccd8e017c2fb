"""Channels of groups that change places, in every layer that has them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from bench.channels.layer_axes import axes_of, width

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup, Member


@torch.no_grad()
def permute(model: nn.Module, groups: Sequence[ChannelGroup], *, inverse: bool) -> None:
    """Lets the channels of some groups change places in every layer that has them, or changes them back."""
    sides: dict[tuple[str, str], Tensor] = {}
    for group in groups:
        permutation = permutation_of(group)
        for member in group.members:
            key, layer = (member.layer, member.side), model.get_submodule(member.layer)
            places = sides.get(key, torch.arange(width(layer, member.side)))
            sides[key] = places.index_select(0, places_from(member, permutation, len(places)))
    layers = {name: model.get_submodule(name) for name, _ in sides}
    tensors: dict[int, tuple[Tensor, dict[int, Tensor]]] = {}
    for (name, side), places in sides.items():
        order = places.argsort() if inverse else places
        for tensor_name, axes in axes_of(layers[name]).items():
            tensor = getattr(layers[name], tensor_name, None)
            if tensor is not None and side in axes:
                # A tensor that two layers share changes once.
                tensors.setdefault(id(tensor), (tensor, {}))[1].setdefault(axes.index(side), order.to(tensor.device))
    buffer = torch.empty(0)
    for tensor, orders in tensors.values():
        if (buffer.dtype, buffer.device) != (tensor.dtype, tensor.device) or buffer.numel() < tensor.numel():
            # Memory that is there already is quicker than new one for each tensor.
            buffer = tensor.new_empty(max(tensor.numel(), 1 << 20))
        moved = buffer[: tensor.numel()].view(tensor.shape)
        for axis, places in orders.items():
            tensor.copy_(torch.index_select(tensor, axis, places, out=moved))


def permutation_of(group: ChannelGroup) -> Tensor:
    """int64 [channels]: one cycle of all channels of a group, drawn by its name, so that no channel stays."""
    generator = torch.Generator().manual_seed(zlib.crc32(group.name.encode()))
    cycle = torch.randperm(group.channels, generator=generator)
    moved = torch.empty(group.channels, dtype=torch.int64)
    moved[cycle] = cycle.roll(1)
    return moved


def places_from(member: Member, permutation: Tensor, size: int) -> Tensor:
    """int64 [size]: what each position of a layer's side is taken from when channel c gets the place of another."""
    by_channel = torch.argsort(member.channels, stable=True)
    slots = member.positions[by_channel].view(len(permutation), -1)
    places = torch.arange(size)
    places[slots.flatten()] = slots[permutation].flatten()
    return places
