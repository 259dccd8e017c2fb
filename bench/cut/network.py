"""Removes the channels a plan does not keep, from every layer that has them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, find_groups
from bench.channels.layer_axes import axes_of
from bench.channels.positions import Positions, keep_positions, positions_left
from bench.cut.optimizer_state import Slices, carry_over, cut_state
from bench.models import ModelSpec, build_model
from bench.plan.pruning_plan import PruningPlan
from bench.torch_utils.shared_parameters import share_again, shared_parameters


def fresh_network(spec: ModelSpec, kept: Mapping[str, Sequence[int]], seed: int, *, check: bool = True) -> nn.Module:
    """The network that is left of the dense one, with fresh weights, in evaluation mode.

    Args:
        spec: how the dense network is built.
        kept: group name -> the channels that stay, in the numbers of the dense network; a group that is not named is
            whole.
        seed: seed of the weights.
        check: whether the groups that are named were tried out.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = build_model(spec)
    if kept:
        _narrow(model, kept_positions(model, find_groups(model, check=check), kept))
    return model.eval()


def cut(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    plan: PruningPlan,
    optimizer: torch.optim.Optimizer | None = None,
) -> None:
    """Cuts a network in place; each side of each layer is sliced once.

    The groups describe the network before the cut and do not fit it afterwards. What was narrowed has new parameters,
    without gradients. A moving average of the weights (`bench.training.optimizer.Ema`) is a network and is cut by the
    same plan.

        >>> groups = find_groups(model)
        >>> plan = make_plan(groups, scores, CostTable(model, groups, (360, 480)), Target(Goal("macs", 0.5)))
        >>> cut(model, groups, plan)
        >>> measure_cost(model, (360, 480)).macs == plan.predicted.macs
        True

    Args:
        model: the network the groups were found in.
        groups: all its groups.
        plan: what to keep.
        optimizer: one that trains the network: it goes on with the new parameters and the old ones' momenta.

    Raises:
        BenchError: the optimizer's state cannot be sliced like the weights; nothing has changed then.
    """
    kept = kept_positions(model, groups, plan.kept)
    before = dict(model.named_parameters())
    state = cut_state(optimizer, before, _slices(model, kept)) if optimizer else {}
    _narrow(model, kept)
    if optimizer:
        carry_over(optimizer, before, dict(model.named_parameters()), state)


def without(model: nn.Module, groups: Sequence[ChannelGroup], gone: Mapping[str, Tensor]) -> nn.Module:
    """A copy of a network, in evaluation mode, that some channels are cut from.

    Args:
        model: the network the groups were found in.
        groups: those that lose channels.
        gone: group name -> bool [channels], which go.
    """
    small = copy.deepcopy(model).eval()
    _narrow(small, positions_left(small, groups, gone))
    return small


def kept_positions(model: nn.Module, groups: Sequence[ChannelGroup], kept: Mapping[str, Sequence[int]]) -> Positions:
    """The positions that stay, for every side of a layer that loses some; `kept` names the channels of each group."""
    gone = {}
    for group in groups:
        if group.name in kept:
            gone[group.name] = torch.ones(group.channels, dtype=torch.bool)
            gone[group.name][list(kept[group.name])] = False
    return positions_left(model, groups, gone)


def _narrow(model: nn.Module, positions: Positions) -> None:
    """Slices each side once; layers that shared a parameter share it afterwards."""
    shared = shared_parameters(model)
    keep_positions(model, positions)
    share_again(shared)


def _slices(model: nn.Module, kept: Positions) -> Slices:
    """What a cut takes of each parameter; axes are read off the layers as they are before it."""
    slices: Slices = {}
    for (name, side), positions in kept.items():
        for tensor_name, sides in axes_of(model.get_submodule(name)).items():
            if side in sides:
                slices.setdefault(f"{name}.{tensor_name}".lstrip("."), []).append((sides.index(side), positions))
    return slices
