"""How the channels of a network hang together: a forward pass in each mode, followed operator by operator.

Every axis of every parameter and buffer has labels (`bench.channels.axis_labels`); where the labels of what a layer
reads meet those of its weight, they are the same channels (`bench.channels.axis_flow`).
"""

from __future__ import annotations

import contextlib
import warnings
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import bench.channels.axis_moves
import bench.channels.axis_sums  # noqa: F401  rules of operators
from bench.channels.axis_flow import Axes, Flow
from bench.channels.axis_labels import Axis, Labels, Settled
from bench.channels.budget import Budget
from bench.channels.layer_axes import NORMS, OUT, axes_of, computes_weight, is_rigid, own_tensors, width
from bench.channels.modes import without_chance
from bench.config.values import size_text
from bench.errors import BenchError, first_line
from bench.torch_utils.contexts import attention_in_parts
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import inputs_seen, running_modules
from bench.torch_utils.network_form import USUAL_SIZES
from bench.torch_utils.outputs import tensors_in

# Why channels stay that are not a layer's to begin with or end as the network's.
IMAGE, OUTPUT = "added to the image", "network output"


@dataclass(frozen=True)
class TracedSide:
    """One side of one layer that coupled channels reach.

    Attributes:
        layer: module name.
        side: OUT, IN, or an axis of a tensor that the table of axes does not know.
        positions: int64 [channels, n], the positions on that side that each channel takes.
    """

    layer: str
    side: str
    positions: np.ndarray


@dataclass(frozen=True)
class Traced:
    """Channels that are coupled in the same layers.

    Attributes:
        channels: how many there are.
        sides: the sides of layers that they reach.
        obstacle: what stands in the way of narrowing them, None if nothing is known to.
        is_output: whether they are still channels at an output of the network.
        labels: the number of each in the trace.
    """

    channels: int
    sides: list[TracedSide]
    obstacle: str | None
    is_output: bool
    labels: set[int]


class Trace:
    """What a forward pass in each mode showed of a network.

    Attributes:
        size: (height, width) of the image in pixels.
        norm_behind: name of a layer -> name of the normalisation that reads its output.
        run: layers with tensors of their own that a pass in evaluation mode reads.
    """

    def __init__(self, model: nn.Module, size: tuple[int, int] = USUAL_SIZES[0], budget: Budget | None = None):
        """Runs the network.

        Args:
            model: any network; a copy, because a forward pass may leave something behind.
            size: (height, width) of the image in pixels.
            budget: the time for it; channels that are not followed to their end within it stay. A new one by default.

        Raises:
            BenchError: the network does not run, or nothing leads from its layers to its outputs.
        """
        self.size, self._budget = size, budget or Budget()
        self.norm_behind: dict[str, str] = {}
        self.run: set[str] = set()
        self._labels = Labels()
        self._stored = _Stored(model, self._labels)
        self._outputs: list[Axis] = []
        try:
            for is_training in (False, True):
                self._pass(model, size, is_training)
            if not self._outputs and not self._budget.is_spent:
                raise ValueError("no layer leads to its output")
        except Exception as error:
            raise BenchError(
                f"cannot trace {type(model).__name__} at {size_text(size)} ({first_line(error)}); "
                "it must map images [N, 3, H, W] to logits through its layers at that size; `trace_size` gives another"
            ) from error
        self._settled: Settled = self._labels.settled()
        self._channel: np.ndarray = np.empty(0, dtype=np.int64)

    def _pass(self, model: nn.Module, size: tuple[int, int], is_training: bool) -> None:
        flow = Flow(self._labels, self._stored.axes, self._stored.bare_norm, self._stored.computing, self._budget)
        images = blank_image(model, size)
        labels = self._labels.new(images.shape[1])
        self._labels.fix(labels, IMAGE)
        flow.put(images, [None, labels, None, None])
        with torch.no_grad(), attention_in_parts(), without_chance(model, is_training), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with running_modules(model) as flow.running, _norms_noted(model, flow, self.norm_behind), _Watch(flow):
                outputs = tensors_in(model(images))
        for tensor in outputs:
            self._outputs += [axis for axis in flow.of(tensor) if axis is not None]
        if not is_training:
            self.run = set(self._stored.touched)

    def channels(self) -> list[Traced]:
        """The channels of all layers that ran, those together that are coupled in the same layers."""
        channel, reasons = self._settled.channels()
        self._channel = channel
        sides = list(self._stored.sides())
        side_of = np.repeat(np.arange(len(sides)), [len(labels) for _, labels in sides])
        position = np.concatenate([np.arange(len(labels)) for _, labels in sides])
        found = channel[np.concatenate([labels for _, labels in sides])]
        # Channel by channel, and of each the sides in the order of the network.
        order = np.lexsort((position, side_of, found))
        found, side_of, position = found[order], side_of[order], position[order]
        starts = np.flatnonzero(np.diff(found, prepend=-1))
        outputs = set(channel[np.concatenate([*self._outputs, np.empty(0, dtype=np.int64)])].tolist())
        alike: dict[tuple[Any, ...], list[int]] = defaultdict(list)
        ends = np.append(starts[1:], len(found))
        for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
            one = int(found[start])
            # What stays is apart from what goes; channels of both kinds in one layer have reasons of their own.
            alike[side_of[start:end].tobytes(), one in outputs, reasons.get(one)].append(start)
        groups = []
        for (reached, is_output, obstacle), firsts in alike.items():
            of_one = np.frombuffer(reached, dtype=side_of.dtype)
            places = position[np.array(firsts)[:, None] + np.arange(len(of_one))]
            parts = [
                TracedSide(*sides[number][0], places[:, of_one == number]) for number in np.unique(of_one).tolist()
            ]
            labels = set(found[np.array(firsts)].tolist())
            groups.append(Traced(len(firsts), parts, obstacle, is_output, labels))
        return groups

    def choose_others(self, wrong: set[int]) -> bool:
        """Takes axes that hold some channels apart in another way from now on, and says whether there is any.

        Args:
            wrong: numbers of channels, as in `Traced.labels`.
        """
        return self._settled.choose_others(self._channel, wrong)


class _Stored:
    """The labels of the axes of a network's parameters and buffers, made when they are first read."""

    def __init__(self, model: nn.Module, labels: Labels):
        self._labels = labels
        self._owners: dict[int, list[tuple[str, str]]] = defaultdict(list)
        self._tensors: list[Tensor] = []
        self._layers = dict(model.named_modules())
        self._sides: dict[tuple[str, str], Axis] = {}
        self._axes: dict[int, Axes] = {}
        self.touched: set[str] = set()
        self.computing = {name for name, layer in self._layers.items() if computes_weight(layer)}
        for name, layer in self._layers.items():
            for tensor_name, tensor in own_tensors(layer):
                self._owners[id(tensor)].append((name, tensor_name))
                self._tensors.append(tensor)

    def axes(self, tensor: Tensor) -> Axes | None:
        """The labels of a stored tensor, None for any other."""
        owners = self._owners.get(id(tensor))
        if owners is None:
            return None
        self.touched.update(name for name, _ in owners)
        if tensor.numel() <= 1:
            return None
        if id(tensor) not in self._axes:
            found: Axes = [None] * tensor.dim()
            for name, tensor_name in owners:
                layer = self._layers[name]
                if is_rigid(layer):
                    found = [self._labels.new(size) for size in tensor.shape]
                    for axis in found:
                        self._labels.fix(axis, f"{type(layer).__name__} {name} cannot be narrowed")
                    continue
                for number, side in enumerate((axes_of(layer) or {}).get(tensor_name, ())):
                    found[number] = self._labels.join([found[number], self.side(name, side)])
            self._axes[id(tensor)] = found
        return self._axes[id(tensor)]

    def bare_norm(self, name: str) -> Axis | None:
        """The labels of a normalisation that has a width but no tensors."""
        layer = self._layers.get(name)
        if not isinstance(layer, NORMS) or any(True for _ in own_tensors(layer)):
            return None
        return self.side(name, OUT)

    def side(self, name: str, side: str) -> Axis:
        """The labels of a side of a layer."""
        if (name, side) not in self._sides:
            self._sides[name, side] = self._labels.new(width(self._layers[name], side))
        return self._sides[name, side]

    def sides(self) -> Iterator[tuple[tuple[str, str], Axis]]:
        """(layer, side) -> labels, of all that were read, in the order of the network."""
        order = {name: number for number, name in enumerate(self._layers)}
        yield from sorted(self._sides.items(), key=lambda item: (order[item[0][0]], item[0][1]))


class _Watch(TorchDispatchMode):
    """Shows each operator that runs to a flow."""

    def __init__(self, flow: Flow):
        super().__init__()
        self._flow = flow

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        self._flow.pass_operator(func, args, kwargs, out)
        return out


@contextlib.contextmanager
def _norms_noted(model: nn.Module, flow: Flow, norm_behind: dict[str, str]) -> Iterator[None]:
    """Notes which normalisation reads the output of which layer, what only modules tell."""

    def enter(name: str, inputs: tuple[Any, ...]) -> None:
        read = next(iter(tensors_in(inputs)), None)
        maker = None if read is None else flow.maker(read)
        if maker is not None:
            norm_behind.setdefault(maker, name)

    with inputs_seen(model, [name for name, module in model.named_modules() if isinstance(module, NORMS)], enter):
        yield


def traced_at(model: nn.Module, sizes: Sequence[tuple[int, int]], budget: Budget | None = None) -> Trace:
    """The trace of a network at the first of some sizes that it takes.

    Args:
        model: any network; a copy.
        sizes: (height, width) of the image in pixels, one at least.
        budget: the time for it (`Trace`).

    Raises:
        BenchError: it cannot be traced; at the first of the sizes, if at none of them.
    """
    failure: BenchError | None = None
    for size in sizes:
        try:
            return Trace(model, size, budget)
        except BenchError as error:
            failure = failure or error
    raise failure
