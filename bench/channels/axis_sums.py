"""Rules for operators that compute over axes: sums, products of matrices, convolutions, norms, pooling."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from bench.channels.axis_flow import Flow, Rule, place_by_place, rule
from bench.channels.axis_labels import Axis
from bench.torch_utils.outputs import tensors_in


@rule(*("sum", "mean", "amax", "amin", "max", "min", "var", "std", "norm", "any", "all", "prod", "argmax", "argmin"))
@rule("logsumexp", "var_mean", "std_mean", "linalg_vector_norm", "median", "count_nonzero", "nansum", "aminmax", "mode")
def _reduce(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    tensor, name = args[0], func.overloadpacket.__name__
    if isinstance(args[1] if len(args) > 1 else None, Tensor):
        place_by_place(flow, func, args, kwargs, out)
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


@rule("_cdist_forward", "_euclidean_dist")
def _distances(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    left, right = map(flow.of, args[:2])
    _summed(flow, left[-1], right[-1])
    lead = [flow.labels.join(parts) for parts in zip(left[:-2], right[:-2], strict=True)]
    flow.put(out, [*lead, left[-2], right[-2]])


@rule("_fft_r2c", "_fft_c2c", "_fft_c2r")
def _transform(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    """A Fourier transform over some axes."""
    axes, over = flow.of(args[0]), {axis % out.dim() for axis in args[1]}
    flow.hold(*(axes[k] for k in over), why="transforms them")
    flow.put(out, [None if k in over else axis for k, axis in enumerate(axes)])


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
    elif transposed and weight.shape[1] != 1:
        flow.hold(read, into, made, why="is a grouped transposed convolution")
        made = None
    elif transposed:
        made = flow.labels.join([read, into])
    else:
        ours, each = flow.labels.split(read, (groups, weight.shape[1]))
        blocks, _ = flow.labels.split(made, (groups, weight.shape[0] // groups))
        blocks = flow.labels.join([ours, blocks])
        if made is None:
            # A filter that is written in the code, such as one that blurs.
            made = flow.labels.merge([blocks, None], (groups, weight.shape[0] // groups))
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
    axes[1] = flow.normed(flow.labels.join([axes[1], *(flow.of(one)[0] for one in others)]))
    flow.put(out[0] if isinstance(out, (tuple, list)) else out, axes)


@rule("native_layer_norm", "_fused_rms_norm", "rms_norm", "_rms_norm")
def _layer_norm(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes = list(flow.of(args[0]))
    weights = [one for one in args[2:] if isinstance(one, Tensor)]
    for k in range(1, len(args[1]) + 1):
        axes[-k] = flow.labels.join([axes[-k], *(flow.of(one)[-k] for one in weights if one.dim() >= k)])
    axes[-1] = flow.normed(axes[-1])
    flow.put(tensors_in(out)[0], axes)


@rule("native_group_norm")
def _group_norm(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    axes, parts = list(flow.of(args[0])), args[6]
    weights = [flow.of(one)[0] for one in args[1:3] if one is not None]
    axes[1] = flow.normed(flow.labels.join([axes[1], *weights]))
    flow.labels.split(axes[1], (parts, args[0].shape[1] // parts))
    flow.put(out[0], axes)


@rule("_scaled_dot_product_flash_attention_for_cpu", "_scaled_dot_product_flash_attention")
@rule("_scaled_dot_product_efficient_attention", "_scaled_dot_product_attention_math", "scaled_dot_product_attention")
@rule("_scaled_dot_product_cudnn_attention", "_scaled_dot_product_fused_attention_overrideable")
def _attention(flow: Flow, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> None:
    query, key, value = map(flow.of, args[:3])
    _summed(flow, query[-1], key[-1])
    if key[-2] is not None or value[-2] is not None:
        _summed(flow, key[-2], value[-2])
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
