"""Coupled channels: everything in a network that must shrink together, found once per network.

The coupling comes from torch-pruning's dependency graph (Fang et al., DepGraph, CVPR 2023), traced at a
small input. What is kept of it is plain data: which positions of which side of which layer belong to which
channel. Scoring, planning, cost prediction and cutting need nothing else.
"""

from __future__ import annotations

import fnmatch
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from bench.errors import BenchError, UsageError
from bench.layers import IN, NORMS, OUT, WEIGHTED, axes_of, is_depthwise, is_grouped
from bench.modes import flags_kept

TRACE_SIZE = (64, 64)


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
        depthwise: depthwise convolutions they pass.
        consumers: layers that read them.
        unit: channels that can only go together (1, or the width of an attention head).
        protected: why none may be removed, or None.
    """

    name: str
    channels: int
    producers: tuple[Producer, ...]
    norms: tuple[Member, ...]
    depthwise: tuple[Member, ...]
    consumers: tuple[Member, ...]
    unit: int = 1
    protected: str | None = None

    @property
    def members(self) -> tuple[Member, ...]:
        """Every side of every layer that shrinks with the group, each once."""
        return (*(producer.layer for producer in self.producers), *self.norms, *self.depthwise, *self.consumers)


def find_groups(model: nn.Module, *, ignore: Sequence[str] = (), protect_first: bool = False) -> list[ChannelGroup]:
    """Finds the groups of coupled channels of a network.

    Args:
        model: any network whose layers are in `bench.layers`; left as it was.
        ignore: patterns (`fnmatch`) of layer names whose output channels stay.
        protect_first: whether the first layer's output channels stay.

    Returns:
        All groups in the order of their first producers, the protected ones included.

    Raises:
        UsageError: a pattern matches no layer.
        BenchError: the network cannot be traced.
    """
    names = {module: name for name, module in model.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    graph = _trace(model)
    items_of_groups = [list(group) for group in graph.get_all_groups(root_module_types=list(WEIGHTED))]
    groups = [_as_group(items, graph, names, order) for items in items_of_groups]
    groups.sort(key=lambda group: order[group.name])
    reasons = _reasons_to_protect(groups, items_of_groups, graph, names, model, ignore, protect_first)
    return [_protect(group, reasons.get(group.name)) for group in groups]


def prunable(groups: Iterable[ChannelGroup]) -> list[ChannelGroup]:
    """The groups channels may be removed from."""
    return [group for group in groups if group.protected is None]


def _trace(model: nn.Module) -> tp.DependencyGraph:
    device = next(model.parameters()).device
    images = torch.zeros(2, 3, *TRACE_SIZE, device=device)
    graph = tp.DependencyGraph()
    with flags_kept(model), torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(model, images, forward_fn=_traced_forward, verbose=False)
        except (RuntimeError, ValueError, AssertionError, AttributeError, KeyError, TypeError) as error:
            raise BenchError(
                f"cannot trace {type(model).__name__} at {TRACE_SIZE[0]}x{TRACE_SIZE[1]} ({error}); "
                "it must map [N, 3, H, W] to logits through layers that keep the autograd graph"
            ) from error
    return graph


def _traced_forward(model: nn.Module, images: Tensor) -> Any:
    """A forward pass in training mode, so that auxiliary heads run, but with frozen statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
    handles = _show_unpooling_ties(model)
    try:
        return model(images)
    finally:
        for handle in handles:
            handle.remove()


def _layers_run_in_evaluation(model: nn.Module) -> set[str]:
    """Names of the layers with weights that a forward pass in evaluation mode calls."""
    called: set[str] = set()
    handles = [
        layer.register_forward_hook(lambda *_, name=name: called.add(name))
        for name, layer in model.named_modules()
        if isinstance(layer, WEIGHTED)
    ]
    device = next(model.parameters()).device
    try:
        with flags_kept(model), torch.no_grad():
            model.eval()(torch.zeros(1, 3, *TRACE_SIZE, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return called


def _show_unpooling_ties(model: nn.Module) -> list[Any]:
    """Couples the decoder's width to the encoder's in the traced graph.

    Max-unpooling puts channel c at the places the indices of channel c name, so both must shrink together,
    but indices carry no gradient and the trace does not see them. Adding the pooled tensor's source with
    weight zero makes the tie an ordinary addition.
    """
    sources: dict[int, tuple[Tensor, Tensor]] = {}

    def after_pool(module: nn.MaxPool2d, inputs: tuple[Tensor, ...], output: Any) -> None:
        if module.return_indices:
            indices = output[1]
            sources[id(indices)] = (indices, inputs[0])

    def after_unpool(module: nn.MaxUnpool2d, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        source = sources.get(id(inputs[1]))
        if source is None:
            raise BenchError("the indices of a MaxUnpool2d must come straight from a MaxPool2d of the network")
        return output + 0 * source[1]

    hooks = {nn.MaxPool2d: after_pool, nn.MaxUnpool2d: after_unpool}
    return [module.register_forward_hook(hooks[type(module)]) for module in model.modules() if type(module) in hooks]


def _as_group(items: list[Any], graph: tp.DependencyGraph, names: dict, order: dict[str, int]) -> ChannelGroup:
    channels = len(items[0].idxs)
    by_layer: dict[tuple[str, str], Member] = {}
    for item in items:
        module = item.dep.target.module
        if module not in names or axes_of(module) is None:
            continue
        side = OUT if graph.is_out_channel_pruning_fn(item.dep.handler) else IN
        member = Member(names[module], side, torch.tensor(item.idxs), torch.tensor(item.root_idxs))
        by_layer[member.layer, side] = member
    ordered = sorted(by_layer.values(), key=lambda member: order[member.layer])

    layers = {name: module for module, name in names.items()}
    made = [m for m in ordered if m.side == OUT and isinstance(layers[m.layer], WEIGHTED)]
    norms = {m.layer: m for m in ordered if m.side == OUT and not isinstance(layers[m.layer], WEIGHTED)}
    filters = [m for m in made if not is_depthwise(layers[m.layer])]
    followers = {
        m.layer: next((names[node.module] for node in graph.module2node[layers[m.layer]].outputs
                       if isinstance(node.module, NORMS)), None)
        for m in filters
    }  # fmt: skip
    producers = tuple(Producer(m, norms.get(followers[m.layer])) for m in filters)
    depthwise = tuple(m for m in made if is_depthwise(layers[m.layer]))
    consumers = tuple(m for m in ordered if m.side == IN and not is_depthwise(layers[m.layer]))
    name = (producers[0].layer if producers else ordered[0]).layer
    return ChannelGroup(name, channels, producers, tuple(norms.values()), depthwise, consumers)


def _reads(item: Any, graph: tp.DependencyGraph) -> bool:
    """Whether an item of the dependency graph is a layer that turns the channels into others."""
    return isinstance(item.dep.target.module, WEIGHTED) and not graph.is_out_channel_pruning_fn(item.dep.handler)


def _reasons_to_protect(
    groups: list[ChannelGroup],
    items_of_groups: list[list[Any]],
    graph: tp.DependencyGraph,
    names: dict[nn.Module, str],
    model: nn.Module,
    ignore: Sequence[str],
    protect_first: bool,
) -> dict[str, str]:
    """Group name -> why its channels stay."""
    layers = {name: module for module, name in names.items()}
    owner = {producer.layer.layer: group.name for group in groups for producer in group.producers}
    reasons: dict[str, str] = {}

    inference = _layers_run_in_evaluation(model)
    for group in groups:
        if group.producers and not any(producer.layer.layer in inference for producer in group.producers):
            # An auxiliary head costs nothing at inference; removing its channels would be a reduction in name only.
            reasons[group.name] = "not run at inference"
    # A node nothing reads is an output of the network; channels that are still channels there stay.
    for items in items_of_groups:
        if any(not item.dep.target.outputs for item in items if not _reads(item, graph)):
            root = names[items[0].dep.target.module]
            reasons[owner.get(root, root)] = "network output"

    claims: dict[tuple[str, str, int], tuple[str, int]] = {}
    for group in groups:
        if not group.producers:
            reasons.setdefault(group.name, "no layer makes these channels")
        for member in group.members:
            layer = layers[member.layer]
            if len(set(torch.bincount(member.channels, minlength=group.channels).tolist())) > 1:
                reasons.setdefault(group.name, f"{member.layer} reads its channels unevenly")
            if is_grouped(layer):
                reasons.setdefault(group.name, f"grouped convolution {member.layer}")
            for position, channel in zip(member.positions.tolist(), member.channels.tolist(), strict=True):
                claim = claims.setdefault((member.layer, member.side, position), (group.name, channel))
                if claim != (group.name, channel):
                    for name in (claim[0], group.name):
                        reasons.setdefault(name, f"channels of {member.layer} depend on each other")

    for pattern in ignore:
        matched = [name for name in names.values() if name and fnmatch.fnmatch(name, pattern)]
        if not matched:
            raise UsageError(f"--ignore pattern '{pattern}' matches no layer; --list-groups names them")
        for name in matched:
            if name in owner:
                reasons.setdefault(owner[name], f"ignored by '{pattern}'")
    if protect_first:
        first = next(name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))
        reasons.setdefault(owner[first], "first layer")
    return reasons


def _protect(group: ChannelGroup, reason: str | None) -> ChannelGroup:
    if reason is None:
        return group
    return ChannelGroup(
        group.name, group.channels, group.producers, group.norms, group.depthwise, group.consumers, group.unit, reason
    )  # fmt: skip


def group_sides(groups: Iterable[ChannelGroup]) -> dict[tuple[str, str], list[tuple[ChannelGroup, Member]]]:
    """(layer, side) -> the groups its positions belong to; a layer behind a concat reads several."""
    sides: dict[tuple[str, str], list[tuple[ChannelGroup, Member]]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            sides[member.layer, member.side].append((group, member))
    return sides
