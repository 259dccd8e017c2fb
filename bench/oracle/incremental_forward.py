"""Runs a network again on the same image with channels switched off, computing only what differs.

The first run is recorded: the result of every torch function that the network calls. A further run switches off
channels of given layers, in several variants at once, and calls the same functions in the same order. What does not
depend on those channels is taken from the record; so the run starts, in effect, at the first layer that is touched.
From there on a tensor is known by the channels that differ and their values, one after the other for the variants
along the batch axis. A convolution that reads both kinds adds what the difference amounts to to its recorded result:
behind a single channel that is next to nothing, and behind a concatenation with an untouched skip it is half.

No tracer is involved: the network's own code runs on stand-ins for tensors, so that it may branch on shapes.
Functions without a rule here are computed whole, which is slower and not less exact.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.hooks import channel_axis, outputs_seen

Closed = Mapping[str, Sequence[Tensor]]
"""Layer name -> int64 positions of its output channels that are switched off, for each variant."""


@dataclass
class _Value:
    """What is known of a tensor.

    Attributes:
        base: as in the recorded run, [1, C, ...] for features.
        changed: values of the channels that differ, [variants, len(channels), ...]; None where nothing does.
        channels: int64, ascending, those that differ; None for all.
    """

    base: Any
    changed: Tensor | None = None
    channels: Tensor | None = None


class _StandIn(Tensor):
    """What the network holds in place of a tensor: its shape, and a value that the run knows."""

    run: IncrementalForward
    value: _Value

    @classmethod
    def __torch_function__(
        cls, func: Callable, types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func.__name__ in ("__get__", "size", "dim", "numel"):
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **(kwargs or {}))
        run = _stand_ins((args, kwargs))[0].run
        return run.call(func, list(args), dict(kwargs or {}))


class IncrementalForward:
    """One image's recorded forward pass.

    Attributes:
        logits: [1, C, H, W], of the whole network.
    """

    def __init__(self, model: nn.Module, image: Tensor):
        """Records a run in evaluation mode.

        Args:
            model: maps images to logits; left as it was.
            image: float32 [1, 3, H, W], on the network's device.

        Raises:
            BenchError: the network does to tensors what a record cannot follow.
        """
        # On a CPU convolutions of few channels at a high resolution are twice as fast in this layout.
        layout = torch.channels_last if image.device.type == "cpu" else torch.preserve_format
        self._model, self._image = model, image.to(memory_format=layout)
        self._layers = dict(model.named_modules())
        self._results: list[tuple[Callable, Any]] = []
        self._variants = 0
        self.logits = self._run({})

    def check(self) -> None:
        """Compares the recorded run with an ordinary one.

        Raises:
            BenchError: they differ, because the network writes into parts of tensors.
        """
        with torch.inference_mode(), flags_kept(self._model):
            plain = self._model.eval()(self._image)
        if not torch.allclose(self.logits, plain, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise BenchError(f"{type(self._model).__name__} writes into parts of tensors, which a record cannot follow")

    def logits_without(self, closed: Closed, variants: int) -> Tensor:
        """Logits with channels switched off: [variants, C, H, W].

        Args:
            closed: what is off, for each variant.
            variants: how many there are.

        Raises:
            BenchError: the network mixes images, or does not do the same twice.
        """
        self._variants = variants
        return self._run(closed)

    def _run(self, closed: Closed) -> Tensor:
        self._number = 0
        with torch.inference_mode(), flags_kept(self._model), self._gates(closed):
            logits = self._model.eval()(self._wrapped(_Value(self._image)))
            return self._whole(logits.value) if self._variants else logits.value.base

    def _gates(self, closed: Closed) -> contextlib.AbstractContextManager[None]:
        def gate(name: str, output: Any) -> Any:
            return self._wrapped(self._without(self._layers[name], output.value, closed[name]))

        return outputs_seen(self._model, closed, gate)

    def _without(self, layer: nn.Module, value: _Value, positions: Sequence[Tensor]) -> _Value:
        """A layer's output with some of its channels zero."""
        if value.base.dim() > 2 and channel_axis(layer, value.base) != 1:
            values = self._whole(value).clone()
            for variant, off in zip(values, positions, strict=True):
                variant[..., off.to(values.device)] = 0
            return _Value(value.base, values)
        device = value.base.device
        off = [part.to(device) for part in positions]
        known = [] if value.channels is None else [value.channels]
        channels = None if _all_differ(value) else torch.cat([*off, *known]).unique()
        values = self.part(value, channels).clone()
        for variant, part in zip(values, off, strict=True):
            variant[part if channels is None else torch.searchsorted(channels, part)] = 0
        return _Value(value.base, values, channels)

    def call(self, func: Callable, args: list[Any], kwargs: dict[str, Any]) -> Any:
        """Does what a torch function does, on stand-ins."""
        if func.__name__ == "__setitem__":
            raise BenchError(f"{type(self._model).__name__} writes into parts of tensors, which a record cannot follow")
        target = args[0] if _in_place(func, kwargs) else None
        if kwargs.get("inplace"):
            kwargs["inplace"] = False
        result = self._replayed(func, args, kwargs) if self._variants else self._recorded(func, args, kwargs)
        if target is None:
            return result
        target.value = result.value
        return target

    def _recorded(self, func: Callable, args: list[Any], kwargs: dict[str, Any]) -> Any:
        result = _computed(func, *_mapped((args, kwargs), lambda stand_in: stand_in.value.base))
        self._results.append((func, result))
        return self._results_wrapped(result)

    def _replayed(self, func: Callable, args: list[Any], kwargs: dict[str, Any]) -> Any:
        recorded, base = self._results[self._number] if self._number < len(self._results) else (None, None)
        self._number += 1
        if recorded is not func:
            raise BenchError(f"{type(self._model).__name__} does not do the same in every forward pass")
        stand_ins = _stand_ins((args, kwargs))
        if all(stand_in.value.changed is None for stand_in in stand_ins):
            return self._results_wrapped(base)
        rule = _RULES.get(func.__name__)
        partial = rule(self, func, base, args, kwargs) if rule and isinstance(base, Tensor) else None
        if partial is not None:
            return self._wrapped(partial)
        whole = _computed(func, *_mapped((args, kwargs), lambda stand_in: self._whole(stand_in.value)))
        return self._results_wrapped(base, whole)

    def _results_wrapped(self, base: Any, whole: Any = None) -> Any:
        """Stand-ins for a function's results, of which there may be several."""
        if isinstance(base, Tensor):
            if whole is not None and whole.shape != (self._variants * base.shape[0], *base.shape[1:]):
                raise BenchError(f"{type(self._model).__name__} mixes the images of a batch")
            return self._wrapped(_Value(base, whole))
        if isinstance(base, (list, tuple)) and not isinstance(base, torch.Size):
            wholes = [None] * len(base) if whole is None else whole
            return type(base)([self._results_wrapped(*pair) for pair in zip(base, wholes, strict=True)])
        return base if whole is None else whole

    def _wrapped(self, value: _Value) -> _StandIn:
        batch, *rest = value.base.shape
        # One element of memory, whatever the shape.
        like = value.base.new_empty(()).expand(max(self._variants, 1) * batch, *rest)
        # `as_subclass` fails while torch 2.4 counts operations.
        stand_in = Tensor._make_subclass(_StandIn, like)
        stand_in.run, stand_in.value = self, value
        return stand_in

    def _whole(self, value: _Value) -> Tensor:
        """A tensor with all channels of all variants."""
        if _all_differ(value):
            return value.changed
        base = value.base
        if base.shape[0] == 1:
            repeated = base.expand(self._variants, *base.shape[1:])
        else:
            repeated = base.repeat(self._variants, *[1] * (base.dim() - 1))
        return repeated if value.changed is None else repeated.index_copy(1, value.channels, value.changed)

    def part(self, value: _Value, channels: Tensor | None) -> Tensor:
        """The given channels of all variants; those that differ must be among them."""
        if channels is None or (value.channels is not None and torch.equal(channels, value.channels)):
            return self._whole(value) if channels is None else value.changed
        part = _chosen(value.base, 1, channels).expand(self._variants, -1, *value.base.shape[2:])
        if value.changed is None:
            return part
        return part.index_copy(1, torch.searchsorted(channels, value.channels), value.changed)


def _channelwise(
    run: IncrementalForward, func: Callable, base: Tensor, args: list[Any], kwargs: dict[str, Any]
) -> _Value | None:
    """A function each of whose output channels depends on the same channel of its arguments alone."""
    stand_ins = _stand_ins((args, kwargs))
    shapes = {stand_in.value.base.shape for stand_in in stand_ins}
    broadcasts = len(shapes) > 1 or any(_is_plain_tensor(item) for item in (*args, *kwargs.values()))
    if broadcasts or base.dim() < 3 or base.shape[:2] != stand_ins[0].value.base.shape[:2]:
        return None
    if any(_all_differ(stand_in.value) for stand_in in stand_ins):
        return None
    channels = torch.cat([s.value.channels for s in stand_ins if s.value.channels is not None]).unique()
    args, kwargs = _mapped((args, kwargs), lambda stand_in: run.part(stand_in.value, channels))
    return _Value(base, _computed(func, args, kwargs), channels)


def _batch_norm(
    run: IncrementalForward, func: Callable, base: Tensor, args: list[Any], kwargs: dict[str, Any]
) -> _Value | None:
    """Batch normalisation by fixed statistics."""
    value = args[0].value
    if value.channels is None or kwargs.get("training"):
        return None

    def part(item: Any) -> Any:
        return item.index_select(0, value.channels) if isinstance(item, Tensor) else item

    settings = {name: part(item) for name, item in kwargs.items()}
    return _Value(base, func(value.changed, *map(part, args[1:]), **settings), value.channels)


def _convolution(
    run: IncrementalForward, func: Callable, base: Tensor, args: list[Any], kwargs: dict[str, Any]
) -> _Value | None:
    """The recorded result plus what the difference of the input amounts to."""
    source, weight = args[:2]
    value, groups = source.value, kwargs.get("groups", args[6] if len(args) > 6 else 1)
    if value.channels is None or groups != 1:
        return None
    difference = value.changed - _chosen(value.base, 1, value.channels)
    weight = _chosen(weight, 0 if func.__name__ == "conv_transpose2d" else 1, value.channels)
    amount = func(difference, weight, None, *args[3:], **kwargs)
    # A single channel has no layout to hand on.
    layout = torch.channels_last if base.is_contiguous(memory_format=torch.channels_last) else torch.contiguous_format
    return _Value(base, amount.contiguous(memory_format=layout).add_(base))


def _concatenation(
    run: IncrementalForward, func: Callable, base: Tensor, args: list[Any], kwargs: dict[str, Any]
) -> _Value | None:
    """Parts put side by side along the channels."""
    axis = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    parts = args[0]
    if axis != 1 or any(_is_plain_tensor(part) for part in parts) or all(_all_differ(part.value) for part in parts):
        return None
    channels, values, before = [], [], 0
    for part in parts:
        value, width = part.value, part.shape[1]
        if value.changed is not None:
            own = torch.arange(width, device=base.device) if value.channels is None else value.channels
            channels.append(before + own)
            values.append(value.changed)
        before += width
    return _Value(base, values[0] if len(values) == 1 else torch.cat(values, dim=1), torch.cat(channels))


# By name, because torch has several objects for most of them. The place of `groups` among the arguments of the two
# convolutions is the same.
_RULES = {
    **dict.fromkeys(
        (
            *("relu", "relu_", "relu6", "leaky_relu", "elu", "silu", "gelu", "hardswish", "sigmoid", "tanh"),
            *("add", "add_", "sub", "mul", "dropout", "interpolate", "pad"),
            *("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "max_unpool2d"),
        ),
        _channelwise,
    ),
    "batch_norm": _batch_norm,
    "conv2d": _convolution,
    "conv_transpose2d": _convolution,
    "cat": _concatenation,
}


def _chosen(tensor: Tensor, axis: int, positions: Tensor) -> Tensor:
    """The given positions, ascending, of an axis; a view if they follow one another."""
    first, last = int(positions[0]), int(positions[-1])
    if last - first + 1 == len(positions):
        return tensor.narrow(axis, first, len(positions))
    return tensor.index_select(axis, positions)


def _all_differ(value: _Value) -> bool:
    return value.changed is not None and value.channels is None


def _in_place(func: Callable, kwargs: Mapping[str, Any]) -> bool:
    name = func.__name__
    return bool(kwargs.get("inplace")) or (name.endswith("_") and not name.startswith("__"))


def _computed(func: Callable, args: list[Any], kwargs: dict[str, Any]) -> Any:
    """A function's result; what it would write into is copied first, because it may be recorded."""
    if _in_place(func, {}):
        args = [args[0].clone(), *args[1:]]
    return func(*args, **kwargs)


def _is_plain_tensor(item: Any) -> bool:
    return isinstance(item, Tensor) and not isinstance(item, _StandIn)


def _mapped(tree: Any, change: Callable[[_StandIn], Any]) -> Any:
    """Nested arguments with every stand-in replaced."""
    if isinstance(tree, _StandIn):
        return change(tree)
    if isinstance(tree, (list, tuple)) and not isinstance(tree, torch.Size):
        return type(tree)([_mapped(item, change) for item in tree])
    if isinstance(tree, dict):
        return {key: _mapped(item, change) for key, item in tree.items()}
    return tree


def _stand_ins(tree: Any) -> list[_StandIn]:
    """The stand-ins among nested arguments."""
    found: list[_StandIn] = []

    def note(stand_in: _StandIn) -> _StandIn:
        found.append(stand_in)
        return stand_in

    _mapped(tree, note)
    return found
