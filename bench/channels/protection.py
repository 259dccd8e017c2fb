"""Reasons why channels stay: groups that cannot be narrowed, gain nothing from it, or are spared on request."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import nn

from bench.channels.layer_axes import WEIGHTED, axes_of, first_layer, is_grouped, width
from bench.channels.tracing import IMAGE, PARAMETER, TRACE_SIZE, Traced
from bench.errors import UsageError
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import outputs_seen

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup

# Reasons that have to do with what a layer is for, or with what the user wants.
OUTPUT, UNUSED, FIRST, IGNORED = "network output", "not run at inference", "first layer", "ignored by"


def reasons_to_protect(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    traced: Sequence[Traced],
    ignore: Sequence[str] = (),
    protect_first: bool = False,
    size: tuple[int, int] = TRACE_SIZE,
) -> dict[str, str]:
    """Group name -> why its channels stay; the groups that are not named are free to go.

    Where there are several reasons, those the user gave come first, then what the channels are for, then what stands
    in the way of narrowing them.

    Args:
        model: the network, a copy: it is left in evaluation mode.
        groups: its groups, in the order of their first producers.
        traced: where the graph follows each group's channels, in any order.
        ignore: patterns (`fnmatch`) of layer names whose output channels stay.
        protect_first: whether the first layer's output channels stay.
        size: (height, width) in pixels of an image that the network takes.

    Raises:
        UsageError: a pattern matches no layer that makes channels.
    """
    owner = {producer.layer.layer: group.name for group in groups for producer in group.producers}
    layers = dict(model.named_modules())
    # Of several reasons for one group the last of these is given.
    return (
        _obstacles_of_members(groups, layers)
        | _obstacles_on_the_way(traced, owner, layers)
        | _unused(model, groups, size)
        | {owner.get(one.root, one.root): OUTPUT for one in traced if one.is_output}
        | _ignored(owner, ignore)
        | ({owner[first_layer(model)]: FIRST} if protect_first else {})
    )


def _unused(model: nn.Module, groups: Sequence[ChannelGroup], size: tuple[int, int]) -> dict[str, str]:
    """An auxiliary head costs nothing at inference; removing its channels would be a reduction in name only."""
    inference = _layers_run_in_evaluation(model, size)
    return {
        group.name: UNUSED
        for group in groups
        if group.producers and not any(producer.layer.layer in inference for producer in group.producers)
    }


def _layers_run_in_evaluation(model: nn.Module, size: tuple[int, int]) -> set[str]:
    """Names of the layers with weights that a forward pass in evaluation mode calls."""
    called: set[str] = set()
    names = [name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)]
    with torch.no_grad(), outputs_seen(model, names, lambda name, _output: called.add(name)):
        model.eval()(blank_image(model, size))
    return called


def _obstacles_on_the_way(
    traced: Sequence[Traced], owner: dict[str, str], layers: dict[str, nn.Module]
) -> dict[str, str]:
    """What channels meet that has a width of its own, the first of it."""
    reasons: dict[str, str] = {}
    for one in traced:
        name = owner.get(one.root, one.root)
        for passed in one.passed:
            if passed == IMAGE:
                reasons.setdefault(name, "added to the image")
            elif passed == PARAMETER:
                reasons.setdefault(name, "a parameter outside of any layer has these channels")
            elif _is_rigid(layers[passed]):
                reasons.setdefault(name, f"{type(layers[passed]).__name__} {passed} cannot be narrowed")
    return reasons


def _is_rigid(layer: nn.Module) -> bool:
    """Whether a layer depends on its number of channels without being in the layer table."""
    has_widths = any(tensor.numel() > 1 for tensor in layer.state_dict().values())
    return axes_of(layer) is None and (has_widths or isinstance(layer, nn.GroupNorm))


def _obstacles_of_members(groups: Sequence[ChannelGroup], layers: dict[str, nn.Module]) -> dict[str, str]:
    """What the members of groups have that a cut could not follow, the first of it."""
    reasons: dict[str, str] = {}
    claims: dict[tuple[str, str, int], tuple[str, int]] = {}
    for group in groups:
        if not group.producers:
            reasons.setdefault(group.name, "no layer makes these channels")
        for member in group.members:
            layer = layers[member.layer]
            if is_grouped(layer):
                reasons.setdefault(group.name, f"grouped convolution {member.layer}")
            if member.positions.max() >= width(layer, member.side):
                reasons.setdefault(group.name, f"channels cannot be followed into {member.layer}")
            if len(set(torch.bincount(member.channels, minlength=group.channels).tolist())) > 1:
                reasons.setdefault(group.name, f"{member.layer} reads its channels unevenly")
            for position, channel in zip(member.positions.tolist(), member.channels.tolist(), strict=True):
                claim = claims.setdefault((member.layer, member.side, position), (group.name, channel))
                if claim != (group.name, channel):
                    for name in (claim[0], group.name):
                        reasons.setdefault(name, f"channels of {member.layer} depend on each other")
    return reasons


def _ignored(owner: dict[str, str], patterns: Sequence[str]) -> dict[str, str]:
    """What the user wants to stay; not hidden by a reason that has to do with channels alone."""
    reasons: dict[str, str] = {}
    for pattern in patterns:
        matched = [name for name in owner if fnmatch.fnmatch(name, pattern)]
        if not matched:
            known = list(owner)
            raise UsageError(
                f"`ignore` pattern '{pattern}' matches no layer that makes channels; "
                f"they are named {known[0]} to {known[-1]}"
            )
        reasons |= {owner[name]: f"{IGNORED} '{pattern}'" for name in matched}
    return reasons
