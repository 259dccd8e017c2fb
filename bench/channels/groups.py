"""Coupled channels: everything in a network that must shrink together, found once per network.

The coupling comes from torch-pruning's dependency graph (Fang et al., DepGraph, CVPR 2023), traced at a
small input. What is kept of it is plain data: which positions of which side of which layer belong to which
channel. Scoring, planning, cost prediction and cutting need nothing else.
"""

from __future__ import annotations

import copy
import fnmatch
import warnings
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from bench.channels.layer_axes import IN, NORMS, OUT, WEIGHTED, axes_of, is_depthwise, is_grouped, width
from bench.errors import BenchError, UsageError
from bench.torch_utils.dry_run import blank_image

TRACE_SIZE = (64, 64)

# Reasons why channels stay that have to do with what a layer is for, or with what the user wants.
OUTPUT, UNUSED, FIRST, IGNORED = "network output", "not run at inference", "first layer", "ignored by"


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


def find_groups(model: nn.Module, *, ignore: Sequence[str] = (), protect_first: bool = False) -> list[ChannelGroup]:
    """Finds the groups of coupled channels of a network.

    Args:
        model: any network whose layers are in `bench.channels.layer_axes`; left as it was.
        ignore: patterns (`fnmatch`) of layer names whose output channels stay.
        protect_first: whether the first layer's output channels stay.

    Returns:
        All groups in the order of their first producers, the protected ones included.

    Raises:
        UsageError: a pattern matches no layer that makes channels.
        BenchError: the network cannot be traced.
    """
    # A copy, because a forward pass in training mode may change a network, and a failed one leaves hooks behind.
    model = copy.deepcopy(model)
    names = {module: name for name, module in model.named_modules()}
    order = {name: position for position, name in enumerate(names.values())}
    graph, items_of_groups = _trace(model)
    groups = [_as_group(items, graph, names, order) for items in items_of_groups]
    groups.sort(key=lambda group: order[group.name])
    reasons = _reasons_to_protect(groups, items_of_groups, graph, names, model, ignore, protect_first)
    return [replace(group, protected=reasons.get(group.name)) for group in groups]


def prunable(groups: Iterable[ChannelGroup]) -> list[ChannelGroup]:
    """The groups channels may be removed from."""
    return [group for group in groups if group.protected is None]


def first_layer(model: nn.Module) -> str:
    """Name of the first layer with weights."""
    return next(name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))


def layers_to_spare(groups: Iterable[ChannelGroup]) -> set[str]:
    """Layers no method is to touch: those that make the network's outputs, auxiliary heads, what the user protects.

    Channels may stay for other reasons too, which say nothing about single weights.
    """
    spared = [group for group in groups if (group.protected or "").startswith((OUTPUT, UNUSED, FIRST, IGNORED))]
    return {producer.layer.layer for group in spared for producer in group.producers}


class _Framed(nn.Module):
    """A network whose image and outputs the tracer sees.

    The tracer knows only what a layer makes: without one in front, an image that is added to or concatenated
    with features is overlooked. And it takes a layer for an output only if nothing reads it, so each output
    gets an operation of its own.
    """

    def __init__(self, model: nn.Module, images: Tensor):
        super().__init__()
        self.image = nn.BatchNorm2d(3, device=images.device, dtype=images.dtype)
        self.model = model

    def forward(self, images: Tensor) -> list[Tensor]:
        return [1 * output for output in tp.utils.flatten_as_list(self.model(self.image(images)))]


def _trace(model: nn.Module) -> tuple[tp.DependencyGraph, list[list[Any]]]:
    """The dependency graph of a network and the items of each of its groups."""
    images = blank_image(model, TRACE_SIZE, batch=2)
    graph = tp.DependencyGraph()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(_Framed(model, images), images, forward_fn=_traced_forward, verbose=False)
            groups = [list(group) for group in graph.get_all_groups(root_module_types=list(WEIGHTED))]
            if not groups:
                raise ValueError("no layer leads to its output")
        except (RuntimeError, ValueError, AssertionError, AttributeError, LookupError, TypeError) as error:
            raise BenchError(
                f"cannot trace {type(model).__name__} at {TRACE_SIZE[0]}x{TRACE_SIZE[1]} "
                f"({(str(error).splitlines() or [type(error).__name__])[0]}); "
                "it must map [N, 3, H, W] to logits through layers that keep the autograd graph"
            ) from error
    return graph, groups


def _traced_forward(model: nn.Module, images: Tensor) -> Any:
    """A forward pass in training mode, so that auxiliary heads run, but with frozen statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
    _show_unpooling_ties(model)
    return model(images)


def _layers_run_in_evaluation(model: nn.Module) -> set[str]:
    """Names of the layers with weights that a forward pass in evaluation mode calls."""
    called: set[str] = set()
    for name, layer in model.named_modules():
        if isinstance(layer, WEIGHTED):
            layer.register_forward_hook(lambda *_, name=name: called.add(name))
    with torch.no_grad():
        model.eval()(blank_image(model, TRACE_SIZE))
    return called


def _show_unpooling_ties(model: nn.Module) -> None:
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
    for module in model.modules():
        if type(module) in hooks:
            module.register_forward_hook(hooks[type(module)])


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
    norms = {m.layer: m for m in ordered if isinstance(layers[m.layer], NORMS)}
    filters = [m for m in made if not is_depthwise(layers[m.layer])]
    followers = {
        m.layer: next((names[node.module] for node in graph.module2node[layers[m.layer]].outputs
                       if isinstance(node.module, NORMS)), None)
        for m in filters
    }  # fmt: skip
    producers = tuple(Producer(m, norms.get(followers[m.layer])) for m in filters)
    depthwise = tuple(m for m in ordered if m.side == OUT and m not in filters and m.layer not in norms)
    consumers = tuple(m for m in ordered if m.side == IN and not is_depthwise(layers[m.layer]))
    name = (producers[0].layer if producers else ordered[0]).layer
    structure = tuple(sorted(f"{type(layers[m.layer]).__name__} {m.side}" for m in ordered))
    return ChannelGroup(
        name, channels, producers, tuple(norms.values()), depthwise, consumers, structure=structure
    )  # fmt: skip


def _reads(item: Any, graph: tp.DependencyGraph) -> bool:
    """Whether an item of the dependency graph is a layer that turns the channels into others."""
    return isinstance(item.dep.target.module, WEIGHTED) and not graph.is_out_channel_pruning_fn(item.dep.handler)


def _is_rigid(layer: nn.Module) -> bool:
    """Whether a layer depends on its number of channels without being in the layer table."""
    has_widths = any(tensor.numel() > 1 for tensor in layer.state_dict().values())
    return axes_of(layer) is None and (has_widths or isinstance(layer, nn.GroupNorm))


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
            reasons[group.name] = UNUSED
    # A node nothing reads is an output of the network; channels that are still channels there stay.
    for items in items_of_groups:
        root = names[items[0].dep.target.module]
        name = owner.get(root, root)
        if any(not item.dep.target.outputs for item in items if not _reads(item, graph)):
            reasons[name] = OUTPUT
        for layer in (item.dep.target.module for item in items):
            if layer is graph.model.image:
                reasons.setdefault(name, "added to the image")
            elif isinstance(layer, nn.Parameter):
                reasons.setdefault(name, "a parameter outside of any layer has these channels")
            elif layer in names and _is_rigid(layer):
                reasons.setdefault(name, f"{type(layer).__name__} {names[layer]} cannot be narrowed")

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

    for pattern in ignore:
        matched = [name for name in owner if fnmatch.fnmatch(name, pattern)]
        if not matched:
            known = list(owner)
            raise UsageError(
                f"--ignore pattern '{pattern}' matches no layer that makes channels; "
                f"they are named {known[0]} to {known[-1]}"
            )
        for name in matched:
            # Not hidden by a reason that has to do with channels alone.
            reasons[owner[name]] = f"{IGNORED} '{pattern}'"
    if protect_first:
        reasons[owner[first_layer(model)]] = FIRST
    return reasons


def group_sides(groups: Iterable[ChannelGroup]) -> dict[tuple[str, str], list[tuple[ChannelGroup, Member]]]:
    """(layer, side) -> the groups its positions belong to; a layer behind a concat reads several."""
    sides: dict[tuple[str, str], list[tuple[ChannelGroup, Member]]] = defaultdict(list)
    for group in groups:
        for member in group.members:
            sides[member.layer, member.side].append((group, member))
    return sides
