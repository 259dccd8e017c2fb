"""Where switching channels off is not what cutting them does, and the networks that are really cut there.

Behind a channel that gives zero a sigmoid gives a half, a norm over channels still counts it, and one without running
statistics mixes what runs together. A network tells which of its groups are so: two channels of each are switched off
and cut, and the logits compared.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.cut.network import without
from bench.oracle.incremental_forward import IncrementalForward

# How far logits may be off, as a share of the largest, where a network runs in double precision and where it does not.
_EXACT, _ROUNDED = 1e-9, 1e-4


def cut_copy(model: nn.Module, removed: Mapping[ChannelGroup, Sequence[int]]) -> nn.Module:
    """A copy of a network, in evaluation mode, that some channels are cut from."""
    gone = {
        group.name: torch.isin(torch.arange(group.channels), torch.tensor(channels))
        for group, channels in removed.items()
    }
    return without(model, list(removed), gone)


def switched_off(group: ChannelGroup, sets: Sequence[Sequence[int]]) -> dict[str, list[Tensor]]:
    """Layer name -> positions of its output that belong to each of some sets of a group's channels.

    The layers are the group's norms and depthwise convolutions, and the producers without a norm right behind.
    """
    bare = [producer.layer for producer in group.producers if producer.norm is None]
    members = {member.layer: member for member in (*bare, *group.norms, *group.depthwise)}
    chosen = [torch.tensor(channels) for channels in sets]
    return {
        name: [member.positions[torch.isin(member.channels, channels)] for channels in chosen]
        for name, member in members.items()
    }


def must_be_cut(model: nn.Module, groups: Sequence[ChannelGroup], image: Tensor) -> set[str]:
    """Names of the groups whose channels have to be cut, because switching them off is something else.

    All are tried at once; only where something differs, halves of them are.

    Args:
        model: the network; left as it was.
        groups: prunable ones.
        image: [1, C, H, W], any that the network takes.
    """
    trial = _Trial(model, image)
    found: set[str] = set()
    waiting = [list(groups)]
    while waiting:
        tried = waiting.pop()
        if not tried or trial.is_same(tried):
            continue
        if len(tried) == 1:
            found.add(tried[0].name)
        else:
            half = len(tried) // 2
            waiting += [tried[half:], tried[:half]]
    return found


class _Trial:
    """A copy of a network in double precision, where it runs in that."""

    def __init__(self, model: nn.Module, image: Tensor):
        self._model, self._tolerance = copy.deepcopy(model).double().eval(), _EXACT
        generator = torch.Generator().manual_seed(0)
        self._image = torch.randn(image.shape, generator=generator).to(image.device, torch.float64)
        with torch.inference_mode():
            try:
                self._model(self._image)
            except Exception:  # noqa: BLE001  a network's own code
                self._model, self._tolerance = copy.deepcopy(model).eval(), _ROUNDED
                self._image = self._image.to(image.dtype)

    def is_same(self, groups: Sequence[ChannelGroup]) -> bool:
        """Whether switching off the first channel of some groups, and beside it the last, is cutting it."""
        # Two at once, because what runs together may mix.
        sets = ((0,), (-1,))
        closed: dict[str, list[Tensor]] = {}
        for group in groups:
            found = switched_off(group, [[number % group.channels for number in one] for one in sets])
            for name, positions in found.items():
                parts = closed.get(name, [torch.empty(0, dtype=torch.int64)] * len(sets))
                closed[name] = [torch.cat(pair) for pair in zip(parts, positions, strict=True)]
        try:
            gated = IncrementalForward(self._model, self._image).logits_without(closed, len(sets))
        except Exception:  # noqa: BLE001  a network's own code
            return False
        with torch.inference_mode():
            cut_off = torch.cat([
                cut_copy(self._model, {group: [number % group.channels for number in one] for group in groups})(
                    self._image
                )
                for one in sets
            ])  # fmt: skip
        largest = cut_off.abs().amax().clamp_min(torch.finfo(cut_off.dtype).tiny)
        return gated.shape == cut_off.shape and bool((gated - cut_off).abs().amax() <= self._tolerance * largest)
