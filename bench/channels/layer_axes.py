"""Which layers have channels, on which axis of which tensor, and how to make a layer narrower.

One table serves everything that changes or reads widths: cutting channels, rebuilding a narrowed network
from a file, and predicting costs.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

OUT, IN = "out", "in"

# Layer type -> tensor name -> the side each leading axis belongs to; of several types that fit the first counts.
_AXES: dict[type[nn.Module], dict[str, tuple[str, ...]]] = {
    nn.modules.conv._ConvTransposeNd: {"weight": (IN, OUT), "bias": (OUT,)},
    nn.modules.conv._ConvNd: {"weight": (OUT, IN), "bias": (OUT,)},
    nn.Linear: {"weight": (OUT, IN), "bias": (OUT,)},
    nn.modules.batchnorm._BatchNorm: {"weight": (OUT,), "bias": (OUT,), "running_mean": (OUT,), "running_var": (OUT,)},
    nn.modules.instancenorm._InstanceNorm: {
        "weight": (OUT,),
        "bias": (OUT,),
        "running_mean": (OUT,),
        "running_var": (OUT,),
    },
    nn.GroupNorm: {"weight": (OUT,), "bias": (OUT,)},
    nn.LayerNorm: {"weight": (OUT,), "bias": (OUT,)},
    nn.RMSNorm: {"weight": (OUT,)},
    nn.PReLU: {"weight": (OUT,)},
}

CONVOLUTIONS, TRANSPOSED = nn.modules.conv._ConvNd, nn.modules.conv._ConvTransposeNd
WEIGHTED = (CONVOLUTIONS, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)


def axes_of(layer: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """Tensor name -> sides of its axes, or None for a layer without channels of its own.

    Tensors that the table does not know, such as the scales of a layer of one's own, have an unnamed side an axis:
    `scale.0`, `scale.1`. Only a trace tells whether channels are there.
    """
    tensors = {name: tensor for name, tensor in own_tensors(layer) if tensor.numel() > 1}
    known = next((axes for kind, axes in _AXES.items() if isinstance(layer, kind)), None)
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return None  # one slope for all channels
    if isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and len(layer.normalized_shape) > 1:
        known = None  # one of several axes; which, only a trace tells
    if known is not None and is_depthwise(layer):
        # One filter a channel: the input side has no axis of its own.
        known = {"weight": (OUT,), "bias": (OUT,)}
    if known is None and not tensors:
        return None
    others = {name: tensor for name, tensor in tensors.items() if name not in (known or {})}
    return (known or {}) | {
        name: tuple(f"{name}.{axis}" for axis in range(tensor.dim())) for name, tensor in others.items()
    }


def is_rigid(layer: nn.Module) -> bool:
    """Whether a layer has channels but cannot be narrowed: what computes its weights would not know of it."""
    if isinstance(layer, (nn.utils.parametrize.ParametrizationList, torch.jit.ScriptModule)):
        return True
    if isinstance(layer, TRANSPOSED) and is_grouped(layer):
        # Its bias has an axis for all channels, its weight one for those of a group.
        return True
    return computes_weight(layer)


def computes_weight(layer: nn.Module) -> bool:
    """Whether a layer makes its weight of others in every pass: weight norm, spectral norm, a mask."""
    return isinstance(layer, WEIGHTED) and "weight" not in layer._parameters


def own_tensors(layer: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """The parameters and buffers that belong to a module itself, with their names."""
    for name, tensor in (*layer._parameters.items(), *layer._buffers.items()):
        if tensor is not None:
            yield name, tensor


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution makes each channel from the same one alone."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == layer.out_channels > 1


def is_grouped(layer: nn.Module) -> bool:
    """Whether a convolution has several groups without being depthwise."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer)


def width(layer: nn.Module, side: str) -> int:
    """Number of channels a layer has on one side."""
    if side == IN and is_depthwise(layer):
        side = OUT
    for name, axes in (axes_of(layer) or {}).items():
        tensor = getattr(layer, name, None)
        if tensor is not None and side in axes:
            return tensor.shape[axes.index(side)]
    # A norm without tensors.
    shape = getattr(layer, "normalized_shape", None)
    return shape[-1] if shape else getattr(layer, "num_features", None) or layer.num_channels


def widths(model: nn.Module) -> dict[str, int]:
    """Channels that each convolution and linear layer of a network gives, by name."""
    return {name: width(layer, OUT) for name, layer in model.named_modules() if isinstance(layer, WEIGHTED)}


def first_layer(model: nn.Module) -> str:
    """Name of the first layer with weights."""
    return next(name for name, layer in model.named_modules() if isinstance(layer, WEIGHTED))


def out_filters(layer: nn.Module, values: Tensor | None = None) -> Tensor:
    """The filters of a convolution or linear layer, one a row.

    Args:
        layer: a layer of `WEIGHTED`.
        values: a tensor shaped as its weight, such as a gradient; by default the weight itself.

    Returns:
        [out channels, weights a filter]
    """
    weight = layer.weight if values is None else values
    return weight.movedim(axes_of(layer)["weight"].index(OUT), 0).flatten(1)


def keep_channels(layer: nn.Module, side: str, kept: Tensor) -> None:
    """Removes all channels of one side of a layer but the given ones, in place.

    Args:
        layer: a layer of the table above.
        side: OUT or IN.
        kept: int64 [K], positions that stay, ascending.
    """
    keep_sides(layer, {side: kept})


@torch.no_grad()
def keep_sides(layer: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Removes all channels of some sides of a layer but the given ones, in place.

    Args:
        layer: a layer of the table above.
        kept: side -> int64 [K], positions that stay, ascending.
    """
    if OUT in kept and is_grouped(layer):
        layer.groups = len(torch.unique(kept[OUT] // (layer.out_channels // layer.groups)))
    if OUT in kept and isinstance(layer, nn.GroupNorm):
        layer.num_groups = len(torch.unique(kept[OUT] // (layer.num_channels // layer.num_groups)))
    for name, sides in axes_of(layer).items():
        tensor = getattr(layer, name, None)
        axes = {axis: kept[side] for axis, side in enumerate(sides) if side in kept}
        if tensor is not None and axes:
            _replace(layer, name, sliced(tensor, axes))
    _refresh_attributes(layer, len(kept.get(OUT, ())))


# Up to how many blocks of neighbours are copied each by itself, which is quicker than position by position.
_MOST_BLOCKS = 8


def sliced(tensor: Tensor, kept: Mapping[int, Tensor]) -> Tensor:
    """The given positions of some axes of a tensor, in the tensor's memory format.

    Args:
        tensor: any.
        kept: axis -> int64 [K], positions on it, ascending.
    """
    shape = [len(kept[axis]) if axis in kept else size for axis, size in enumerate(tensor.shape)]
    is_last = tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    like = torch.empty(shape, device="meta")
    strides = (like.contiguous(memory_format=torch.channels_last) if is_last else like).stride()
    if isinstance(tensor, FakeTensor):
        # A shape has no values to pick from.
        return tensor.new_empty_strided(shape, strides)
    tensor = tensor.detach()
    starts = {axis: _starts(positions) for axis, positions in kept.items()}
    if math.prod(map(len, starts.values())) <= _MOST_BLOCKS:
        smaller = torch.empty_strided(shape, strides, dtype=tensor.dtype, device=tensor.device)
        runs = [_runs(kept[axis], starts[axis]) if axis in kept else [(0, 0, size)] for axis, size in enumerate(shape)]
        for block in itertools.product(*runs):
            into = tuple(slice(start, start + length) for start, _, length in block)
            smaller[into] = tensor[tuple(slice(first, first + length) for _, first, length in block)]
        return smaller
    for axis, positions in kept.items():
        tensor = tensor.index_select(axis, positions.to(tensor.device))
    # index_select gives a plain contiguous tensor.
    return tensor.contiguous(memory_format=torch.channels_last) if is_last else tensor


def _starts(positions: Tensor) -> Tensor:
    """int64 [runs], where in a list of positions a run of neighbours begins."""
    return (positions.diff(prepend=positions[:1] - 2) != 1).nonzero().flatten()


def _runs(positions: Tensor, starts: Tensor) -> list[tuple[int, int, int]]:
    """(place in the list, first position, length) of each run of neighbours."""
    lengths = starts.diff(append=starts.new_tensor([len(positions)]))
    return list(zip(starts.tolist(), positions[starts].tolist(), lengths.tolist(), strict=True))


def adopt_shapes(model: nn.Module, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Narrows a freshly built network to the tensor shapes of a file; the values are left to be loaded.

    Only axes that are channels may differ, and only downwards; every other difference is left for the
    loader to report.

    Args:
        model: the dense network.
        shapes: state-dict name -> shape.
    """
    for prefix, layer in model.named_modules():
        axes = axes_of(layer)
        if axes is None:
            continue
        changed = False
        for name, sides in axes.items():
            tensor = getattr(layer, name, None)
            shape = shapes.get(f"{prefix}.{name}" if prefix else name)
            if tensor is None or shape is None or tuple(tensor.shape) == tuple(shape):
                continue
            if not _is_narrowed(tuple(tensor.shape), tuple(shape), len(sides)):
                continue
            _replace(layer, name, tensor.new_empty(shape))
            changed = True
        if changed:
            _refresh_attributes(layer, 0)


def _is_narrowed(dense: tuple[int, ...], shape: tuple[int, ...], channel_axes: int) -> bool:
    return (
        len(dense) == len(shape)
        and dense[channel_axes:] == shape[channel_axes:]
        and all(0 < small <= large for small, large in zip(shape, dense, strict=True))
    )


def _replace(layer: nn.Module, name: str, tensor: Tensor) -> None:
    old = getattr(layer, name)
    if isinstance(old, nn.Parameter):
        tensor = nn.Parameter(tensor, requires_grad=old.requires_grad)
    setattr(layer, name, tensor)


def _refresh_attributes(layer: nn.Module, kept: int) -> None:
    """Makes a layer's width attributes agree with its tensors; `kept` is the width of a norm without any."""
    if isinstance(layer, CONVOLUTIONS):
        if is_depthwise(layer):
            layer.groups = layer.in_channels = layer.out_channels = layer.weight.shape[0]
        else:
            layer.out_channels = width(layer, OUT)
            layer.in_channels = width(layer, IN) * layer.groups
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)):
        layer.num_features = width(layer, OUT) if any(True for _ in own_tensors(layer)) else kept
    elif isinstance(layer, nn.GroupNorm):
        layer.num_channels = kept if layer.weight is None else layer.weight.shape[0]
    elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)):
        shape = (*layer.normalized_shape[:-1], kept) if layer.weight is None else layer.weight.shape
        layer.normalized_shape = tuple(shape)
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
    elif isinstance(layer, nn.MultiheadAttention):
        _refresh_attention(layer)


def _refresh_attention(layer: nn.MultiheadAttention) -> None:
    """Makes the widths that torch's attention knows agree with its tensors; it keeps its number of heads."""
    if layer.in_proj_weight is None:
        layer.embed_dim = layer.q_proj_weight.shape[0]
        layer.kdim, layer.vdim = layer.k_proj_weight.shape[1], layer.v_proj_weight.shape[1]
    else:
        layer.embed_dim = layer.kdim = layer.vdim = layer.in_proj_weight.shape[0] // 3
    layer.head_dim = layer.embed_dim // layer.num_heads


def sizes_without_tensors(model: nn.Module) -> dict[str, dict[str, int]]:
    """Layer name -> what no tensor of a layer says of its width: groups, and the widths of norms without weights."""
    found: dict[str, dict[str, int]] = {}
    for name, layer in model.named_modules():
        if is_grouped(layer):
            found[name] = {"groups": layer.groups}
        elif isinstance(layer, nn.GroupNorm):
            found[name] = {"num_groups": layer.num_groups, "num_channels": layer.num_channels}
        elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and layer.weight is None:
            found[name] = {"width": layer.normalized_shape[-1]}
    return found


def adopt_sizes(model: nn.Module, sizes: Mapping[str, Mapping[str, int]] | None) -> None:
    """Gives a freshly built network what `sizes_without_tensors` said of a narrowed one, before `adopt_shapes`.

    Args:
        model: the dense network.
        sizes: None for a file of a version that narrowed no such layers.
    """
    if sizes is None:
        return
    for name, layer in model.named_modules():
        found = sizes.get(name, {})
        if is_grouped(layer):
            # One that is left with a single group is told apart no more.
            layer.groups = found.get("groups", 1)
        elif isinstance(layer, nn.GroupNorm) and found:
            layer.num_groups, layer.num_channels = found["num_groups"], found["num_channels"]
        elif isinstance(layer, (nn.LayerNorm, nn.RMSNorm)) and layer.weight is None and found:
            _refresh_attributes(layer, found["width"])
