"""How labels of axes pass through the operators of a forward pass, one rule an operator.

Moves take labels along, what is computed place by place joins them, sums drop them, products of matrices join what is
summed over. An operator without a rule holds all channels that reach it in place; the network itself decides in
the end (`bench.channels.exchange`), so a rule may leave out what only code can tell.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from bench.channels.axis_labels import Axis, Labels
from bench.torch_utils.outputs import tensors_in

Axes = list[Axis | None]
"""The labels of each axis of a tensor, None where there are none."""

Rule = Callable[["Flow", Any, tuple[Any, ...], dict[str, Any], Any], None]

_RULES: dict[str, Rule] = {}


class Flow:
    """The labels of the tensors of a forward pass.

    Attributes:
        labels: what was found out about them.
        where: the module that runs now.
    """

    def __init__(self, labels: Labels, of_stored: Callable[[Tensor], Axes | None]):
        """Begins with the tensors a network holds.

        Args:
            labels: gets what is found out.
            of_stored: the axes of a parameter or buffer, None for any other tensor.
        """
        self.labels, self.where = labels, ""
        self._of_stored = of_stored
        self._axes: WeakTensorKeyDictionary = WeakTensorKeyDictionary()
        self._makers: WeakTensorKeyDictionary = WeakTensorKeyDictionary()

    def of(self, tensor: Tensor) -> Axes:
        """The labels of a tensor's axes."""
        axes = self._axes.get(tensor)
        if axes is None:
            axes = self._of_stored(tensor)
        return axes if axes is not None and len(axes) == tensor.dim() else [None] * tensor.dim()

    def put(self, tensor: Tensor, axes: Sequence[Axis | None]) -> None:
        """Gives a tensor's axes labels."""
        if tensor.dim() != len(axes) or any(
            axis is not None and len(axis) != size for axis, size in zip(axes, tensor.shape, strict=True)
        ):
            self.hold(*axes, why="changes shape")
        elif any(axis is not None for axis in axes):
            self._axes[tensor] = list(axes)

    def hold(self, *axes: Axis | None, why: str) -> None:
        """Says that channels on some axes stay."""
        for axis in axes:
            self.labels.fix(axis, f"{self.where or 'the network'} {why}")

    def maker(self, tensor: Tensor) -> str | None:
        """The layer whose output a tensor is."""
        return self._makers.get(tensor)

    def made(self, tensor: Tensor, layer: str | None) -> None:
        """Notes whose output a tensor is."""
        if layer is not None:
            self._makers[tensor] = layer

    def pass_operator(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        """Follows the labels through one operator that has run."""
        name = func.overloadpacket.__name__
        rule = _RULES.get(name)
        if rule is None and (torch.Tag.pointwise in func.tags or name in _POINTWISE):
            rule = _place_by_place
        if rule is not None:
            rule(self, func, args, kwargs, out)
            return
        for tensor in tensors_in((args, kwargs)):
            self.hold(*self.of(tensor), why=f"passes them through {name}")


_POINTWISE = {
    *("copy_", "masked_fill", "masked_fill_", "native_dropout", "_to_copy", "clone", "contiguous", "rrelu_with_noise"),
    *("bernoulli", "_prelu_kernel", "lift_fresh", "log_sigmoid_forward", "where", "fill_", "fill", "zero_"),
    *("_fused_dropout", "rrelu_with_noise_functional", "dropout", "dropout_", "lerp", "addcmul", "addcdiv"),
}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Registers a rule under the names of operators."""

    def register(function: Rule) -> Rule:
        _RULES.update(dict.fromkeys(names, function))
        return function

    return register


def _place_by_place(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensors = tensors_in((args, kwargs))
    results = tensors_in(out)
    if not results:
        return
    rank = results[0].dim()
    joined: Axes = []
    for axis in range(-rank, 0):
        size = results[0].shape[axis]
        found = [flow.of(t)[axis] for t in tensors if t.dim() >= -axis and t.shape[axis] == size]
        joined.append(flow.labels.join(found))
    if func._schema.is_mutable and tensors and _is_part(tensors[0]):
        for own, new in zip(flow.of(tensors[0]), joined, strict=True):
            if own is None:
                flow.hold(new, why="writes them into a part of a tensor")
    for result in results:
        if result.dim() == rank:
            flow.put(result, joined)
    if len(tensors) == 1:
        flow.made(results[0], flow.maker(tensors[0]) if func.overloadpacket.__name__ in _KEEPERS else None)


_KEEPERS = {"clone", "_to_copy", "contiguous"}


def _is_part(tensor: Tensor) -> bool:
    return tensor.untyped_storage().nbytes() > tensor.numel() * tensor.element_size()


@rule(
    *("zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like", "new_zeros"),
    *("new_ones", "new_empty", "new_full", "arange", "zeros", "ones", "full", "empty", "_local_scalar_dense", "equal"),
    *("is_nonzero", "item", "linspace", "scalar_tensor", "rand", "randn", "randperm", "eye", "tril_indices"),
    *("new_empty_strided", "empty_strided", "bernoulli_", "uniform_", "normal_", "random_", "empty_permuted"),
    *("is_same_size", "lift", "resize_", "set_", "logspace", "tril", "triu", "detach_"),
)
def _begins_anew(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """Constants and random numbers have no channels."""


# --- views and other moves


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
        flow.put(
            out,
            [None] * lead
            + [a if n == m else None for a, n, m in zip(axes, tensor.shape, out.shape[lead:], strict=True)],
        )
    elif tensor.shape == out.shape:
        flow.put(out, axes)
    else:
        flow.put(out, _regrouped(flow, axes, list(tensor.shape), list(out.shape)))


def _regrouped(flow: Flow, axes: Axes, before: list[int], after: list[int]) -> Axes:
    """The labels of a tensor that is read in another shape: axes of size 1 aside, runs of equal size belong together."""
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
        flow.put(
            out,
            [None if k == along else a for k, a in enumerate(axes)]
            if name == "index_select"
            else [
                None if k == along else flow.labels.join([a, b])
                for k, (a, b) in enumerate(zip(axes, flow.of(args[2]), strict=True))
            ],
        )


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


# --- sums, products, norms


@rule(*("sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "any", "all", "prod", "argmax", "argmin"))
@rule("logsumexp", "var_mean", "std_mean", "linalg_vector_norm", "median", "count_nonzero", "nansum", "aminmax", "mode")
def _reduce(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor, name = args[0], func.overloadpacket.__name__
    if isinstance(args[1] if len(args) > 1 else None, Tensor):
        _place_by_place(flow, func, args, kwargs, out)
        return
    place = 2 if name in ("norm", "linalg_vector_norm") else 1
    given = args[place] if len(args) > place else kwargs.get("dim")
    named = [given] if isinstance(given, int) and not isinstance(given, bool) else given
    gone = {k % tensor.dim() for k in named} if isinstance(named, (list, tuple)) and named else set(range(tensor.dim()))
    axes = flow.of(tensor)
    for result in tensors_in(out):
        keeps = result.dim() == tensor.dim()
        flow.put(result, [None if k in gone else a for k, a in enumerate(axes) if keeps or k not in gone])


@rule("_softmax", "_log_softmax", "softmax", "log_softmax", "_safe_softmax", "cosine_similarity")
def _same(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    flow.put(out, flow.of(args[0]))


def _summed(flow: Flow, one: Axis | None, other: Axis | None) -> None:
    """Two axes are multiplied place by place and summed up."""
    if one is not None and other is not None:
        flow.labels.join([one, other])
        # What meets a constant has a fixed number of channels.
        for a, b in ((one, other), (other, one)):
            flow.labels.fix(a[(a >= 0) & (b < 0)], "meets a constant")
    else:
        flow.hold(one, other, why="multiplies them with something of a fixed size")


@rule("mm", "addmm", "bmm", "baddbmm", "mv", "dot", "addmv", "addbmm")
def _matmul(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    name = func.overloadpacket.__name__
    a, b = args[-2:] if name in ("mm", "bmm", "mv", "dot") else args[1:3]
    left, right = flow.of(a), flow.of(b)
    is_vector = b.dim() == 1
    if a.shape[-1] != 1:
        _summed(flow, left[-1], right[0 if is_vector else -2])
    found = [flow.labels.join([left[0], right[0]])] if a.dim() == 3 else []
    found += [left[-2]] if a.dim() > 1 else []
    found += [] if is_vector else [right[-1]]
    if name.startswith("add") or name.startswith("badd"):
        bias = flow.of(args[0])
        for k in range(1, len(bias) + 1):
            if args[0].shape[-k] == out.shape[-k]:
                found[-k] = flow.labels.join([found[-k], bias[-k]])
    flow.put(out, found[-out.dim() :] if out.dim() else [])
    flow.made(out, flow.where)


@rule("convolution", "_convolution", "convolution_overrideable")
def _convolution(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    images, weight, bias = args[:3]
    transposed, groups = args[6], args[8]
    batch, read, *places = flow.of(images) if images.dim() == weight.dim() else [None, *flow.of(images)]
    first, second, *taps = flow.of(weight)
    flow.hold(*places, *taps, why="slides over them")
    into, made = (first, second) if transposed else (second, first)
    if groups == 1:
        if images.shape[-len(places) - 1] != 1 or read is not None:
            _summed(flow, read, into)
    elif transposed and not (weight.shape[1] == 1):
        flow.hold(read, into, made, why="is a grouped transposed convolution")
        made = None
    elif transposed:
        made = flow.labels.join([read, into])
    else:
        ours, each = flow.labels.split(read, (groups, weight.shape[1]))
        blocks, _ = flow.labels.split(made, (groups, weight.shape[0] // groups))
        flow.labels.join([ours, blocks])
        if weight.shape[1] > 1:
            _summed(flow, each, into)
    if bias is not None:
        made = flow.labels.join([made, flow.of(bias)[0]])
    found = [batch, made, *[None] * len(places)]
    flow.put(out, found[-out.dim() :])
    flow.made(out, flow.where)


@rule("native_batch_norm", "_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
@rule("_batch_norm_with_update", "_batch_norm_no_update", "batch_norm_elemt", "miopen_batch_norm")
def _batch_norm(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor, *others = [one for one in args if isinstance(one, Tensor)]
    axes = list(flow.of(tensor))
    axes[1] = flow.labels.join([axes[1], *(flow.of(one)[0] for one in others)])
    flow.put(out[0] if isinstance(out, (tuple, list)) else out, axes)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "_rms_norm")
def _layer_norm(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(flow.of(args[0]))
    weights = [one for one in args[2:] if isinstance(one, Tensor)]
    for k in range(1, len(args[1]) + 1):
        axes[-k] = flow.labels.join([axes[-k], *(flow.of(one)[-k] for one in weights if one.dim() >= k)])
    flow.put(tensors_in(out)[0], axes)


@rule("native_group_norm")
def _group_norm(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, parts = list(flow.of(args[0])), args[6]
    weights = [flow.of(one)[0] for one in args[1:3] if one is not None]
    axes[1] = flow.labels.join([axes[1], *weights])
    flow.labels.split(axes[1], (parts, args[0].shape[1] // parts))
    flow.put(out[0], axes)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
@rule("_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math", "scaled_dot_product_attention")
@rule("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable")
def _attention(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    query, key, value = map(flow.of, args[:3])
    _summed(flow, query[-1], key[-1])
    _summed(flow, key[-2], value[-2]) if key[-2] is not None or value[-2] is not None else None
    lead = [flow.labels.join(parts) for parts in zip(query[:-2], key[:-2], value[:-2], strict=True)]
    flow.put(tensors_in(out)[0], [*lead, query[-2], value[-1]])


# --- places: pooling, resizing, sampling


def _over_places(count: int) -> Rule:
    def follow(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
        axes = flow.of(args[0])
        flow.hold(*axes[-count:], why=f"passes them through {func.overloadpacket.__name__}")
        for result in tensors_in(out):
            flow.put(result, [*axes[: result.dim() - count], *[None] * count])

    return follow


for _rank, _names in {
    1: ("upsample_linear1d", "upsample_nearest1d", "avg_pool1d", "adaptive_avg_pool1d", "reflection_pad1d"),
    2: (
        *("upsample_bilinear2d", "upsample_nearest2d", "upsample_bicubic2d", "_upsample_bilinear2d_aa"),
        *("_upsample_nearest_exact2d", "_upsample_bicubic2d_aa", "avg_pool2d", "_adaptive_avg_pool2d"),
        *("adaptive_avg_pool2d", "max_pool2d_with_indices", "adaptive_max_pool2d", "fractional_max_pool2d"),
        *("reflection_pad2d", "replication_pad2d", "max_pool2d", "mkldnn_max_pool2d"),
    ),
    3: ("upsample_trilinear3d", "upsample_nearest3d", "avg_pool3d", "_adaptive_avg_pool3d", "max_pool3d_with_indices"),
}.items():
    rule(*_names)(_over_places(_rank))


@rule("max_unpool2d", "max_unpool3d")
def _unpool(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = [flow.labels.join(parts) for parts in zip(flow.of(args[0]), flow.of(args[1]), strict=True)]
    flow.put(out, [*axes[:2], *[None] * (out.dim() - 2)])


@rule("grid_sampler_2d", "grid_sampler_3d", "grid_sampler")
def _grid_sample(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, grid = flow.of(args[0]), flow.of(args[1])
    flow.hold(*axes[2:], grid[-1], why="reads them as places")
    flow.put(out, [flow.labels.join([axes[0], grid[0]]), axes[1], *grid[1:-1]])


@rule("im2col")
def _unfold(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, taps = flow.of(args[0]), int(np.prod(args[1]))
    flow.put(out, [*axes[:-3], flow.labels.merge([axes[-3], None], (args[0].shape[-3], taps)), None])


@rule("col2im")
def _fold(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, taps = flow.of(args[0]), int(np.prod(args[2]))
    inner, _ = flow.labels.split(axes[-2], (args[0].shape[-2] // taps, taps))
    flow.put(out, [*axes[:-2], inner, None, None])


@rule("unfold")
def _windows(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, along = list(flow.of(args[0])), args[1] % args[0].dim()
    flow.hold(axes[along], why="reads windows of them")
    axes[along] = None
    flow.put(out, [*axes, None])
