"""How the channels of a network hang together, by torch-pruning's dependency graph, as plain data.

The coupling comes from DepGraph (Fang et al., CVPR 2023), traced at a small input. This module alone touches that
library, and nothing of the library leaves it.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch_pruning as tp
from torch import Tensor, nn

from bench.channels.layer_axes import IN, NORMS, OUT, WEIGHTED, axes_of
from bench.errors import BenchError, first_line
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import calls_seen

TRACE_SIZE = (64, 64)
_SIZES = (TRACE_SIZE, (128, 128), (256, 256), (512, 512))

# What channels may pass besides the layers of the network, as `Traced.passed` names it.
IMAGE, PARAMETER = "<image>", "<parameter>"


@dataclass(frozen=True)
class TracedSide:
    """One side of one layer that coupled channels reach.

    Attributes:
        layer: module name.
        side: OUT or IN.
        positions: positions on that side.
        channels: the channel at each position, counted from 0.
        norm_behind: name of the normalisation that reads the layer's output, or None.
    """

    layer: str
    side: str
    positions: list[int]
    channels: list[int]
    norm_behind: str | None


@dataclass(frozen=True)
class Traced:
    """Channels that the dependency graph couples, followed from the layer that makes them.

    Attributes:
        root: the layer they were followed from.
        channels: how many there are.
        sides: the sides of layers with channels of their own that they reach, in the order of the graph, each once.
        passed: names of all modules they pass, IMAGE where they are added to the image and PARAMETER where they meet a
            parameter outside of any layer, in the order of the graph.
        is_output: whether they are still channels at an output of the network.
    """

    root: str
    channels: int
    sides: list[TracedSide]
    passed: list[str]
    is_output: bool


def smallest_size(model: nn.Module) -> tuple[int, int]:
    """(height, width) of the smallest usual image that a network takes; the smallest of all if it takes none."""
    for size in _SIZES:
        with torch.no_grad(), flags_kept(model), contextlib.suppress(Exception):
            model.eval()(blank_image(model, size))
            return size
    return TRACE_SIZE


def trace(model: nn.Module, size: tuple[int, int] = TRACE_SIZE) -> list[Traced]:
    """Follows the channels of a network from every convolution and linear layer.

    Args:
        model: any network; a copy, because its modules' training flags change.
        size: (height, width) of the image in pixels.

    Raises:
        BenchError: the network cannot be traced.
    """
    images = blank_image(model, size, batch=2)
    framed = _Framed(model, images)
    graph, groups = _dependencies(framed, images)
    reader = _Reader(graph, framed)
    return [reader.read(items) for items in groups]


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


def _dependencies(framed: _Framed, images: Tensor) -> tuple[tp.DependencyGraph, list[list[Any]]]:
    """The dependency graph of a network and the items of each of its groups."""
    graph = tp.DependencyGraph()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            graph.build_dependency(framed, images, forward_fn=_traced_forward, verbose=False)
            groups = [list(group) for group in graph.get_all_groups(root_module_types=list(WEIGHTED))]
            if not groups:
                raise ValueError("no layer leads to its output")
        except (RuntimeError, ValueError, AssertionError, AttributeError, LookupError, TypeError) as error:
            raise BenchError(
                f"cannot trace {type(framed.model).__name__} at {images.shape[-2]}x{images.shape[-1]} "
                f"({first_line(error)}); "
                "it must map [N, 3, H, W] to logits through layers that keep the autograd graph"
            ) from error
    return graph, groups


def _traced_forward(model: nn.Module, images: Tensor) -> Any:
    """A forward pass in training mode, so that auxiliary heads run, but with frozen statistics."""
    model.train()
    for module in model.modules():
        if isinstance(module, NORMS):
            module.eval()
    with _unpooling_ties_shown(model):
        return model(images)


@contextlib.contextmanager
def _unpooling_ties_shown(model: nn.Module) -> Iterator[None]:
    """Couples the decoder's width to the encoder's in the traced graph.

    Max-unpooling puts channel c at the places the indices of channel c name, so both must shrink together,
    but indices carry no gradient and the trace does not see them. Adding the pooled tensor's source with
    weight zero makes the tie an ordinary addition.
    """
    sources: dict[int, tuple[Tensor, Tensor]] = {}
    names: dict[type[nn.Module], list[str]] = {nn.MaxPool2d: [], nn.MaxUnpool2d: []}
    for name, module in model.named_modules():
        names.get(type(module), []).append(name)

    def after_pool(name: str, inputs: tuple[Tensor, ...], output: Any) -> None:
        if model.get_submodule(name).return_indices:
            indices = output[1]
            sources[id(indices)] = (indices, inputs[0])

    def after_unpool(_name: str, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        source = sources.get(id(inputs[1]))
        if source is None:
            raise BenchError("the indices of a MaxUnpool2d must come straight from a MaxPool2d of the network")
        return output + 0 * source[1]

    pools, unpools = names.values()
    with calls_seen(model, pools, after_pool), calls_seen(model, unpools, after_unpool):
        yield


class _Reader:
    """Turns the items of a dependency graph into plain data."""

    def __init__(self, graph: tp.DependencyGraph, framed: _Framed):
        self._graph, self._image = graph, framed.image
        self._names = {module: name for name, module in framed.model.named_modules()}

    def read(self, items: list[Any]) -> Traced:
        """What the graph says of the channels of one group of items."""
        sides: dict[tuple[str, str], TracedSide] = {}
        for item in items:
            if item.dep.target.module in self._names and axes_of(item.dep.target.module) is not None:
                side = self._side(item)
                sides[side.layer, side.side] = side
        root = self._names[items[0].dep.target.module]
        passed = [name for name in map(self._name, items) if name is not None]
        # A node nothing reads is an output of the network.
        is_output = any(not item.dep.target.outputs for item in items if not self._turns_into_others(item))
        return Traced(root, len(items[0].idxs), list(sides.values()), passed, is_output)

    def _side(self, item: Any) -> TracedSide:
        module = item.dep.target.module
        side = OUT if self._graph.is_out_channel_pruning_fn(item.dep.handler) else IN
        behind = (node.module for node in self._graph.module2node[module].outputs if isinstance(node.module, NORMS))
        norm = next((self._names[norm] for norm in behind), None)
        return TracedSide(self._names[module], side, list(item.idxs), list(item.root_idxs), norm)

    def _name(self, item: Any) -> str | None:
        module = item.dep.target.module
        if module is self._image:
            return IMAGE
        return PARAMETER if isinstance(module, nn.Parameter) else self._names.get(module)

    def _turns_into_others(self, item: Any) -> bool:
        """Whether an item is a layer that makes other channels of these."""
        is_out = self._graph.is_out_channel_pruning_fn(item.dep.handler)
        return isinstance(item.dep.target.module, WEIGHTED) and not is_out
