"""Reasons why channels stay: groups that cannot be narrowed, gain nothing from it, or are spared on request."""

from __future__ import annotations

import fnmatch
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from bench.channels.layer_axes import first_layer
from bench.channels.tracing import OUTPUT
from bench.errors import UsageError

if TYPE_CHECKING:
    from bench.channels.groups import ChannelGroup
    from bench.channels.tracing import Traced

# Reasons that have to do with what a layer is for, or with what the user wants.
UNUSED, FIRST, IGNORED = "not run at inference", "first layer", "ignored by"
_NOBODYS = "no layer makes these channels"
_AT_ONCE = "all of its channels can only go at once"


def reasons_to_protect(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    traced: Sequence[Traced],
    run: Collection[str],
    ignore: Sequence[str] = (),
    protect_first: bool = False,
) -> dict[str, str]:
    """Group name -> why its channels stay; the groups that are not named are free to go.

    Where there are several reasons, those the user gave come first, then what the channels are for, then what stands
    in the way of narrowing them.

    Args:
        model: the network.
        groups: its groups, in the order of their first producers.
        traced: what the trace showed of each group.
        run: layers that run in evaluation mode.
        ignore: patterns (`fnmatch`) of layer names whose output channels stay.
        protect_first: whether the first layer's output channels stay.

    Raises:
        UsageError: a pattern matches no layer that makes channels.
    """
    makers = {group.name: [producer.layer.layer for producer in group.producers] for group in groups}
    pairs = list(zip(groups, traced, strict=True))
    # Of several reasons for one group the last of these is given.
    return (
        {group.name: _AT_ONCE for group in groups if group.channels == 1 < group.unit}
        | {group.name: _NOBODYS for group in groups if not group.producers}
        | {group.name: one.obstacle for group, one in pairs if one.obstacle is not None}
        # An auxiliary head costs nothing at inference; removing its channels would be a reduction in name only.
        | {name: UNUSED for name, layers in makers.items() if layers and not any(layer in run for layer in layers)}
        | {group.name: OUTPUT for group, one in pairs if one.is_output}
        | _ignored(makers, ignore)
        | ({name: FIRST for name, layers in makers.items() if first_layer(model) in layers} if protect_first else {})
    )


def _ignored(makers: Mapping[str, Sequence[str]], patterns: Sequence[str]) -> dict[str, str]:
    """What the user wants to stay; not hidden by a reason that has to do with channels alone."""
    reasons: dict[str, str] = {}
    known = [layer for layers in makers.values() for layer in layers]
    for pattern in patterns:
        matched = [name for name, layers in makers.items() if fnmatch.filter(layers, pattern)]
        if not matched:
            raise UsageError(
                f"`ignore` pattern '{pattern}' matches no layer that makes channels; "
                f"they are named {known[0]} to {known[-1]}"
            )
        reasons |= dict.fromkeys(matched, f"{IGNORED} '{pattern}'")
    return reasons
