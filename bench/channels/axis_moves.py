"""Rules for operators that move values and compute nothing: views, slices, concatenations, shuffles."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.channels.axis_flow import Axes, Flow, rule
from bench.channels.axis_labels import Axis
from bench.torch_utils.outputs import tensors_in


@rule("alias", "detach", "_unsafe_view", "view", "reshape", "_reshape_alias", "view_copy", "unflatten", "squeeze")
@rule("squeeze_", "unsqueeze", "unsqueeze_", "expand", "_reshape_copy")
def _view(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor = args[0]
    flow.made(out, flow.maker(tensor))
    axes, name = flow.of(tensor), func.overloadpacket.__name__
    if all(axis is None for axis in axes):
        return
    if name in ("view", "_unsafe_view", "reshape", "_reshape_alias", "view_copy", "_reshape_copy") and isinstance(
        args[1] if len(args) > 1 else None, torch.dtype
    ):
        flow.hold(*axes, why="reads their bytes as another type")
    elif name == "expand":
        lead = out.dim() - tensor.dim()
        sizes = zip(axes, tensor.shape, out.shape[lead:], strict=True)
        flow.put(out, [*[None] * lead, *(axis if before == after else None for axis, before, after in sizes)])
    elif tensor.shape == out.shape:
        flow.put(out, axes)
    else:
        flow.put(out, _regrouped(flow, axes, list(tensor.shape), list(out.shape)))


def _regrouped(flow: Flow, axes: Axes, before: list[int], after: list[int]) -> Axes:
    """The labels of a tensor that is read in another shape: but for axes of size 1, runs of equal size are the same."""
    found: Axes = [None] * len(after)
    old = [number for number, size in enumerate(before) if size != 1]
    new = [number for number, size in enumerate(after) if size != 1]
    while old and new:
        left, right = [old.pop(0)], [new.pop(0)]
        while (a := np.prod([before[k] for k in left])) != (b := np.prod([after[k] for k in right])):
            (left if a < b else right).append((old if a < b else new).pop(0))
        sizes = [after[k] for k in right]
        if len(left) == 1:
            parts = flow.labels.split(axes[left[0]], sizes)
        elif len(right) == 1:
            parts = [flow.labels.merge([axes[k] for k in left], [before[k] for k in left])]
        else:
            # Several to several, such as [heads, width, places] read as [heads * width, places / 2, 2] never happens
            # with channels; by way of the whole it is a merge and a split.
            whole = flow.labels.merge([axes[k] for k in left], [before[k] for k in left])
            parts = flow.labels.split(whole, sizes)
        for number, part in zip(right, parts, strict=True):
            found[number] = part
    ones_before = [axes[k] for k, size in enumerate(before) if size == 1 and axes[k] is not None]
    ones_after = [k for k, size in enumerate(after) if size == 1]
    if len(ones_before) == 1 and len(ones_after) >= 1 and len(before) == len(after):
        spot = next(k for k, size in enumerate(before) if size == 1 and axes[k] is not None)
        if after[spot] == 1:
            found[spot] = ones_before[0]
    return found


@rule("as_strided", "as_strided_")
def _strided(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = flow.of(args[0])
    # Without places there is only one order in which channels can be.
    if args[0].shape == out.shape and sum(size != 1 for size in out.shape) <= 1:
        flow.put(out, axes)
    else:
        flow.hold(*axes, why="reads them in strides of its own")


@rule("view_as_real", "view_as_real_copy")
def _real(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    flow.put(out, [*flow.of(args[0]), None])


@rule("view_as_complex", "view_as_complex_copy")
def _complex(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    *axes, pair = flow.of(args[0])
    flow.hold(pair, why="reads them as real and imaginary parts")
    flow.put(out, axes)


@rule("diag_embed")
def _diagonal(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = flow.of(args[0])
    if len(args) > 1 or kwargs:
        flow.hold(*axes, why="puts them on a diagonal")
    else:
        flow.put(out, [*axes, axes[-1]])


@rule("permute", "transpose", "t", "transpose_", "t_", "permute_copy", "movedim", "swapaxes", "numpy_T", "mT")
def _permute(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor, name = args[0], func.overloadpacket.__name__
    rank = tensor.dim() if isinstance(tensor, Tensor) else 0
    order = list(range(rank))
    if name.startswith("permute"):
        order = [axis % rank for axis in args[1]]
    elif rank > 1:
        a, b = (0, 1) if name.startswith("t") and len(args) < 3 else (args[1] % rank, args[2] % rank)
        order[a], order[b] = order[b], order[a]
    axes = flow.of(tensor)
    flow.put(out, [axes[k] for k in order])


@rule("cat", "concat", "concatenate")
def _cat(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensors = [t for t in args[0] if t.dim() == out.dim()]
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    found: Axes = []
    for axis in range(out.dim()):
        parts = [flow.of(t)[axis] for t in tensors]
        if axis != along:
            found.append(flow.labels.join(parts))
        elif all(part is None for part in parts):
            found.append(None)
        else:
            filled = [_none(t.shape[axis]) if part is None else part for t, part in zip(tensors, parts, strict=True)]
            found.append(np.concatenate(filled))
    flow.put(out, found)


def _none(size: int) -> Axis:
    return np.full(size, -1, dtype=np.int64)


@rule("stack")
def _stack(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % out.dim()
    axes = [flow.labels.join(parts) for parts in zip(*map(flow.of, args[0]), strict=True)]
    flow.put(out, [*axes[:along], None, *axes[along:]])


@rule("slice", "narrow", "slice_copy")
def _slice(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor = args[0]
    along = (args[1] if len(args) > 1 else 0) % tensor.dim()
    size, axes = tensor.shape[along], flow.of(tensor)
    if axes[along] is not None and func.overloadpacket.__name__.startswith("slice"):
        start, end, step = slice(*(list(args[2:5]) + [None] * 3)[:3]).indices(size)
        _taken_apart(flow, axes[along], start, end, step)
        axes = [*axes[:along], axes[along][start:end:step], *axes[along + 1 :]]
    elif axes[along] is not None:
        start, length = args[2] % size, args[3]
        _taken_apart(flow, axes[along], start, start + length, 1)
        axes = [*axes[:along], axes[along][start : start + length], *axes[along + 1 :]]
    flow.put(out, axes)


def _taken_apart(flow: Flow, axis: Axis, start: int, end: int, step: int) -> None:
    """A part of an axis is read by itself."""
    size = len(axis)
    if step > 1:
        if size % step:
            flow.hold(axis, why="reads every so many of them")
        flow.labels.alike(axis, step, outer=True)
    elif (start, end) != (0, size):
        flow.labels.alike(axis, int(np.gcd.reduce([start, end, size])))


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "chunk", "unsafe_chunk", "tensor_split")
@rule("split_copy", "split_with_sizes_copy")
def _split(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor = args[0]
    along = (args[2] if len(args) > 2 else kwargs.get("dim", 0)) % tensor.dim()
    axes, start = flow.of(tensor), 0
    for part in out:
        size = part.shape[along]
        if axes[along] is not None:
            _taken_apart(flow, axes[along], start, start + size, 1)
            flow.put(part, [*axes[:along], axes[along][start : start + size], *axes[along + 1 :]])
        else:
            flow.put(part, axes)
        start += size


@rule("select", "unbind", "select_copy")
def _select(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor = args[0]
    along = (args[1] if len(args) > 1 else kwargs.get("dim", 0)) % tensor.dim()
    axes = flow.of(tensor)
    flow.hold(axes[along], why="picks single ones of them")
    for part in tensors_in(out):
        flow.put(part, [*axes[:along], *axes[along + 1 :]])


@rule("flip")
def _flip(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    flipped = {axis % out.dim() for axis in args[1]}
    axes = flow.of(args[0])
    flow.put(out, [a[::-1].copy() if k in flipped and a is not None else a for k, a in enumerate(axes)])


@rule("roll", "cumsum", "cumprod", "sort", "argsort", "topk", "logcumsumexp", "cummax", "cummin", "fft_fft")
def _ordered(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Operators for which the order along an axis matters."""
    tensor, name = args[0], func.overloadpacket.__name__
    given = {"roll": args[2] if len(args) > 2 else kwargs.get("dims", []), "topk": args[2] if len(args) > 2 else -1}
    along = given.get(name, args[1] if len(args) > 1 else kwargs.get("dim", -1))
    touched = {axis % tensor.dim() for axis in ([along] if isinstance(along, int) else along)}
    if name == "roll" and not touched:
        touched = set(range(tensor.dim()))
    axes = flow.of(tensor)
    flow.hold(*(axes[k] for k in touched), why=f"passes them through {name}")
    for result in tensors_in(out):
        flow.put(result, [None if k in touched else a for k, a in enumerate(axes)])


@rule("repeat")
def _repeat(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    lead, axes = out.dim() - args[0].dim(), flow.of(args[0])
    times = list(args[1])[lead:]
    flow.put(out, [None] * lead + [_tiled(a, n) for a, n in zip(axes, times, strict=True)])


def _tiled(axis: Axis | None, times: int) -> Axis | None:
    # One value for all places is no channel of its own.
    return None if axis is None or (len(axis) == 1 and times > 1) else np.tile(axis, times)


@rule("constant_pad_nd", "pad")
def _pad(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, pads = list(flow.of(args[0])), list(args[1])
    for number in range(len(pads) // 2):
        axis = axes[-1 - number]
        low, high = pads[2 * number : 2 * number + 2]
        if axis is not None and (low < 0 or high < 0):
            flow.hold(axis, why="crops them")
            axes[-1 - number] = None
        elif axis is not None:
            axes[-1 - number] = np.concatenate([_none(low), axis, _none(high)])
    flow.put(out, axes)


@rule("index_select", "index", "embedding", "gather", "take_along_dim", "_unsafe_index")
def _index(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """What is read by index stays; the other axes keep their labels."""
    name, tensor = func.overloadpacket.__name__, args[0]
    axes = flow.of(tensor)
    if name in ("index", "_unsafe_index"):
        used = [k for k, index in enumerate(args[1]) if index is not None]
        mixed = any(index is not None and index.dtype == torch.bool for index in args[1])
        flow.hold(*(axes[k] for k in used), why="picks them by index")
        if len(used) == 1 and not mixed:
            rank = args[1][used[0]].dim()
            flow.put(out, [*axes[: used[0]], *[None] * rank, *axes[used[0] + 1 :]])
        elif not mixed and used == list(range(used[0], used[-1] + 1)):
            rest = out.dim() - (len(axes) - len(used))
            flow.put(out, [*axes[: used[0]], *[None] * rest, *axes[used[-1] + 1 :]])
        else:
            flow.hold(*axes, why="picks from them by index")
    elif name == "embedding":
        flow.hold(axes[0], why="picks them by index")
        flow.put(out, [*[None] * (out.dim() - 1), axes[1]])
    else:
        along = args[1] % tensor.dim()
        flow.hold(axes[along], why="picks them by index")
        if name != "index_select":
            axes = [flow.labels.join(pair) for pair in zip(axes, flow.of(args[2]), strict=True)]
        flow.put(out, [None if k == along else a for k, a in enumerate(axes)])


@rule("pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "native_channel_shuffle")
def _shuffle(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    name, (tensor, factor) = func.overloadpacket.__name__, args[:2]
    *lead, axis, _, _ = flow.of(tensor)
    flow.hold(*flow.of(tensor)[-2:], why="mixes places")
    if axis is None:
        return
    if name == "pixel_shuffle":
        size = tensor.shape[-3] // factor**2
        flow.labels.alike(axis, factor**2, outer=True)
        flow.put(out, [*lead, axis.reshape(size, -1)[:, 0], None, None])
    elif name == "pixel_unshuffle":
        flow.put(out, [*lead, np.repeat(axis, factor**2), None, None])
    else:
        outer, inner = flow.labels.split(axis, (factor, len(axis) // factor))
        flow.put(out, [*lead, flow.labels.merge([inner, outer], (len(axis) // factor, factor)), None, None])


@rule("glu")
def _gate(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, along = list(flow.of(args[0])), (args[1] if len(args) > 1 else -1) % out.dim()
    if axes[along] is not None:
        half = out.shape[along]
        flow.labels.alike(axes[along], half)
        axes[along] = flow.labels.join([axes[along][:half], axes[along][half:]])
    flow.put(out, axes)
