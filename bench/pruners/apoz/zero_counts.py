"""How often the activations of a group's channels are zero, counted where the activation really is.

A ReLU may be a module or a function, in place, or behind an addition that several layers feed. So a forward pass is
watched operator by operator: hooks mark the outputs of a group's layers, additions and the like hand the mark on to
their results, and a ReLU of a marked tensor is an activation of the group.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_max_pool2d
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakTensorKeyDictionary

from bench.channels.groups import ChannelGroup, Member
from bench.errors import BenchError
from bench.system.console import progress
from bench.torch_utils.contexts import flags_kept
from bench.torch_utils.dry_run import blank_image
from bench.torch_utils.hooks import channel_axis, outputs_seen

_aten = torch.ops.aten

# Operators whose result has the channels of what goes in.
_HANDING_ON = {
    *(_aten.add, _aten.add_, _aten.sub, _aten.sub_, _aten.mul, _aten.mul_, _aten.div, _aten.div_, _aten.clone),
    *(_aten.max_pool2d_with_indices, _aten.avg_pool2d, _aten.upsample_nearest2d, _aten.upsample_bilinear2d),
}
_RELUS = {_aten.relu, _aten.relu_}
# These are a ReLU if their first argument besides the tensor, the lower bound, is 0.
_CLAMPS = {_aten.hardtanh, _aten.hardtanh_, _aten.clamp, _aten.clamp_, _aten.clamp_min, _aten.clamp_min_}


class _Mark(NamedTuple):
    """What is known of a tensor: positions along one of its axes are channels of a group."""

    group: ChannelGroup
    member: Member
    axis: int


_Seen = Callable[[Tensor, list[_Mark]], None]


@dataclass(frozen=True)
class ZeroShares:
    """How often activations are zero.

    Attributes:
        shares: group name -> float64 [channels], in [0, 1].
        without_relu: groups that meet no ReLU; theirs is the share of values of at most 0 that the layers making
            the channels, or the normalisations right behind them, put out.
    """

    shares: dict[str, Tensor]
    without_relu: list[str]


@torch.no_grad()
def zero_shares(
    model: nn.Module, groups: Sequence[ChannelGroup], batches: Iterable[tuple[Tensor, Tensor | None]]
) -> ZeroShares:
    """Counts the zeros among the activations of each channel, in evaluation mode.

    Where a group meets several ReLUs, as a residual trunk does, its shares are the mean of theirs.

    Args:
        model: any network; left as it was.
        groups: the groups wanted.
        batches: at least one, of images float32 [N, 3, H, W] and where to count: bool [N, H, W], true somewhere in
            each image, or None for everywhere. A position of a smaller map counts if any pixel it stands for is
            true; activations that are no map count whole.

    Raises:
        BenchError: the network's output is not finite.
    """
    device = next(model.parameters()).device
    with flags_kept(model):
        model.eval()
        with_relu: set[str] = set()
        with _watched(model, groups, lambda _, marks: with_relu.update(mark.group.name for mark in marks)):
            model(blank_image(model))
        bare = [group for group in groups if group.name not in with_relu]
        counts = _Counts()
        with _watched(model, groups, counts.add), _watched_outputs(model, bare, counts.add):
            for images, where in progress(batches, "counting activations"):
                counts.start(None if where is None else where.to(device))
                if not torch.isfinite(model(images.to(device))).all():
                    raise BenchError(
                        "the network's output on the calibration images is not finite; the checkpoint is not usable"
                    )
    return ZeroShares({group.name: counts.shares(group) for group in groups}, [group.name for group in bare])


class _Counts:
    """Counts of values of at most 0, for each activation of each group in the order a forward pass meets them."""

    def __init__(self) -> None:
        self._zeros: dict[str, list[Tensor]] = defaultdict(list)
        self._places: dict[str, list[int]] = defaultdict(list)

    def start(self, where: Tensor | None) -> None:
        """Begins a forward pass; `where` is bool [N, H, W] or None."""
        self._where = where
        self._maps: dict[torch.Size, tuple[Tensor, int]] = {}
        self._met: dict[str, int] = defaultdict(int)

    def add(self, values: Tensor, marks: list[_Mark]) -> None:
        """Counts one activation."""
        axis = marks[0].axis
        # As numbers, because bools add up several times slower; an image at a time, where float32 counts exactly.
        is_zero = torch.le(values, 0, out=torch.empty_like(values))
        places = values.numel() // values.shape[axis]
        if self._where is not None and values.dim() == 4 and len(values) == len(self._where):
            where, places = self._at_size(values.shape[-2:])
            is_zero *= where
        inside = [other for other in range(1, values.dim()) if other != axis]
        zeros = (is_zero.sum(dim=inside) if inside else is_zero).double().sum(dim=0)
        for mark in marks:
            name = mark.group.name
            number = self._met[name]
            self._met[name] += 1
            if number == len(self._zeros[name]):
                self._zeros[name].append(torch.zeros(mark.group.channels, dtype=torch.float64, device=values.device))
                self._places[name].append(0)
            positions = len(mark.member.positions) // mark.group.channels
            self._zeros[name][number] += mark.member.gather(zeros, mark.group.channels)
            self._places[name][number] += positions * places

    def shares(self, group: ChannelGroup) -> Tensor:
        """The mean over a group's activations of their shares: float64 [channels]."""
        pairs = zip(self._zeros[group.name], self._places[group.name], strict=True)
        return torch.stack([zeros / places for zeros, places in pairs]).mean(dim=0)

    def _at_size(self, size: torch.Size) -> tuple[Tensor, int]:
        """Where to count in maps of a size, 1 or 0 [N, 1, h, w], and at how many places that is."""
        if size not in self._maps:
            where = adaptive_max_pool2d(self._where[:, None].float(), tuple(size))
            self._maps[size] = where, int(where.count_nonzero())
        return self._maps[size]


class _Watch(TorchDispatchMode):
    """Hands marks on through the operators of a forward pass, and says which ReLUs meet them."""

    def __init__(self, seen: _Seen):
        super().__init__()
        self.marks = WeakTensorKeyDictionary()
        self._seen = seen

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None) -> Any:
        result = func(*args, **(kwargs or {}))
        operator = func.overloadpacket
        if operator in _RELUS or (operator in _CLAMPS and _is_zero(args[1:2])):
            marks = self.marks.get(args[0])
            if marks:
                # An activation in place leaves none behind: what is added to it later brings its own.
                self.marks.pop(result, None)
                self._seen(result, marks)
        elif operator in _HANDING_ON:
            output = result[0] if isinstance(result, tuple) else result
            for source in args[:2]:
                marks = self.marks.get(source) if isinstance(source, Tensor) else None
                if marks and source.dim() == output.dim() and _width(source, marks) == _width(output, marks):
                    self.marks[output] = marks
                    break
        return result


def _is_zero(bound: tuple) -> bool:
    return len(bound) == 1 and isinstance(bound[0], (int, float)) and bound[0] == 0


def _width(tensor: Tensor, marks: list[_Mark]) -> int:
    return tensor.shape[marks[0].axis]


@contextlib.contextmanager
def _watched(model: nn.Module, groups: Iterable[ChannelGroup], seen: _Seen) -> Iterator[None]:
    """Calls `seen` for each ReLU of a group's channels in the forward passes of the block."""
    members: dict[str, list[tuple[ChannelGroup, Member]]] = defaultdict(list)
    for group in groups:
        for member in (*(producer.layer for producer in group.producers), *group.norms, *group.depthwise):
            members[member.layer].append((group, member))
    watch = _Watch(seen)
    with _marked_outputs(model, members, watch.marks.__setitem__), watch:
        yield


def _watched_outputs(
    model: nn.Module, groups: Iterable[ChannelGroup], seen: _Seen
) -> contextlib.AbstractContextManager[None]:
    """Calls `seen` for each output of a normalisation behind a producer of a group, or else of the producer."""
    members: dict[str, list[tuple[ChannelGroup, Member]]] = defaultdict(list)
    for group in groups:
        for producer in group.producers:
            member = producer.norm or producer.layer
            members[member.layer].append((group, member))
    return _marked_outputs(model, members, seen)


def _marked_outputs(
    model: nn.Module, members: dict[str, list[tuple[ChannelGroup, Member]]], seen: _Seen
) -> contextlib.AbstractContextManager[None]:
    """Calls `seen` with the outputs of the layers named, in the forward passes of the block."""

    def mark(name: str, output: Tensor) -> None:
        axis = channel_axis(model.get_submodule(name), output)
        seen(output, [_Mark(group, member, axis) for group, member in members[name]])

    return outputs_seen(model, members, mark)
