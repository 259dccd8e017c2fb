"""Bias absorption: the constant part of the channels a cut removes is added to the layers that read them.

A channel whose norm ends in `gamma * x + beta` still gives `relu(beta)` once its variation is taken away. Cutting
takes that constant away too, which moves the mean of everything behind it. SIRFP (Wu et al., AAAI 2025) folds it into
the next layer instead: into the bias of a consumer, or into the running mean of the norm right behind it.

Which constant a consumer reads is not derived from the layers in between but measured: the norms of the removed
channels get scale zero, and what still varies at a consumer is left alone. So poolings, concatenations, bilinear
upsampling and sums of several producers are covered, and max-unpooling, which scatters a constant, is found out.
Zero padding makes the sum exact only where a kernel does not reach over the border.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member
from bench.channels.layer_axes import OUT, TRANSPOSED, width
from bench.plan.pruning_plan import PruningPlan
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import inputs_seen

_BATCHNORM = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def absorb_bias(model: nn.Module, groups: Sequence[ChannelGroup], plan: PruningPlan) -> dict[str, Any]:
    """Adds the constant part of the channels a plan removes to their consumers, in place and before the cut.

        >>> groups = find_groups(model)
        >>> plan = make_plan(groups, scores, CostTable(model, groups, (360, 480)), Target(Goal("channels", 0.3)))
        >>> record = absorb_bias(model, groups, plan)
        >>> record["absorbed"]["downs.0.conv.0"]
        ['downs.0.conv.3']
        >>> cut(model, groups, plan)

    Args:
        model: the network the groups were found in.
        groups: all its groups.
        plan: what to keep.

    Returns:
        `absorbed`: group name -> consumers that took its constants; `skipped`: group name -> consumer -> why not.
    """
    lost = {
        group.name: torch.ones(group.channels, dtype=torch.bool).index_fill_(0, torch.tensor(kept), False)
        for group in groups
        if len(kept := plan.kept.get(group.name, range(group.channels))) < group.channels
    }
    pruned = [group for group in groups if group.name in lost]
    layers = dict(model.named_modules())
    ranges = _ranges_read(model, pruned, lost)
    norms = _norms_behind(groups, layers)
    absorbed: dict[str, list[str]] = {}
    skipped: dict[str, dict[str, str]] = {}
    for group in pruned:
        for consumer in group.consumers:
            positions = _lost_positions(consumer, lost[group.name])
            reason = _fold(layers[consumer.layer], positions, ranges.get(consumer.layer), norms.get(consumer.layer))
            if reason is None:
                absorbed.setdefault(group.name, []).append(consumer.layer)
            else:
                skipped.setdefault(group.name, {})[consumer.layer] = reason
    return {"absorbed": absorbed, "skipped": skipped}


def _lost_positions(member: Member, lost: Tensor) -> Tensor:
    return member.positions[lost[member.channels]]


def _ranges_read(
    model: nn.Module, pruned: Sequence[ChannelGroup], lost: dict[str, Tensor]
) -> dict[str, tuple[Tensor, Tensor]]:
    """Consumer -> smallest and largest value [in channels] it reads while the removed channels do not vary."""
    silent = copy.deepcopy(model).eval()
    layers = dict(silent.named_modules())
    for group in pruned:
        for norm in group.norms:
            if isinstance(layers[norm.layer], _BATCHNORM) and layers[norm.layer].weight is not None:
                layers[norm.layer].weight[_lost_positions(norm, lost[group.name])] = 0

    ranges: dict[str, tuple[Tensor, Tensor]] = {}

    def note(name: str, inputs: tuple[Tensor, ...]) -> None:
        channel_axis = -1 if isinstance(layers[name], nn.Linear) else 1
        values = inputs[0].movedim(channel_axis, 0).flatten(1).double()
        low, high = values.amin(1), values.amax(1)
        if name in ranges:
            low, high = ranges[name][0].minimum(low), ranges[name][1].maximum(high)
        ranges[name] = low, high

    consumers = {consumer.layer for group in pruned for consumer in group.consumers}
    # Any images do: what is constant is constant for all. Two, so that a pooled image varies too.
    blank = blank_image(silent, batch=2)
    images = torch.randn(blank.shape, generator=torch.Generator().manual_seed(0))
    with inputs_seen(silent, consumers, note):
        silent(images.to(blank))
    return ranges


def _norms_behind(groups: Sequence[ChannelGroup], layers: dict[str, nn.Module]) -> dict[str, nn.Module]:
    """Layer -> the norm right behind it, where that norms exactly this layer's channels and has statistics."""
    found = {}
    for group in groups:
        for producer in group.producers:
            if producer.norm is None or not torch.equal(producer.norm.positions, producer.layer.positions):
                continue
            norm, layer = layers[producer.norm.layer], layers[producer.layer.layer]
            if getattr(norm, "running_mean", None) is not None and width(norm, OUT) == width(layer, OUT):
                found[producer.layer.layer] = norm
    return found


def _fold(
    layer: nn.Module, positions: Tensor, read: tuple[Tensor, Tensor] | None, norm: nn.Module | None
) -> str | None:
    """Adds what some input channels of a layer amount to behind it; returns why it cannot be done, or None."""
    if read is None:
        return "not run at inference"
    if isinstance(layer, TRANSPOSED):
        return "a transposed convolution spreads a constant unevenly"
    low, high = (side[positions.to(side.device)] for side in read)
    if not bool((high - low <= 1e-5 * high.abs().clamp(min=1)).all()):
        return "does not read a constant"
    if layer.bias is None and norm is None:
        return "neither a bias nor statistics behind it"
    # [out, in, places of the kernel]; away from the border every place reads the constant.
    weight = layer.weight.reshape(*layer.weight.shape[:2], -1).sum(2)
    constant = (weight[:, positions.to(weight.device)].double() @ ((low + high) / 2)).to(weight.dtype)
    if layer.bias is not None:
        layer.bias += constant
    else:
        norm.running_mean -= constant
    return None
