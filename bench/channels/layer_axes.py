"""Which layers have channels, on which axis of which tensor, and how to make a layer narrower.

One table serves everything that changes or reads widths: cutting channels, rebuilding a narrowed network
from a file, and predicting costs.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

OUT, IN = "out", "in"

# Layer type -> tensor name -> the side each leading axis belongs to.
_AXES: dict[type[nn.Module], dict[str, tuple[str, ...]]] = {
    nn.Conv2d: {"weight": (OUT, IN), "bias": (OUT,)},
    nn.ConvTranspose2d: {"weight": (IN, OUT), "bias": (OUT,)},
    nn.Linear: {"weight": (OUT, IN), "bias": (OUT,)},
    nn.modules.batchnorm._BatchNorm: {"weight": (OUT,), "bias": (OUT,), "running_mean": (OUT,), "running_var": (OUT,)},
    nn.LayerNorm: {"weight": (OUT,), "bias": (OUT,)},
    nn.PReLU: {"weight": (OUT,)},
}

CONVOLUTIONS = (nn.Conv2d, nn.ConvTranspose2d)
WEIGHTED = (*CONVOLUTIONS, nn.Linear)
NORMS = (nn.modules.batchnorm._BatchNorm, nn.LayerNorm)


def axes_of(layer: nn.Module) -> dict[str, tuple[str, ...]] | None:
    """Tensor name -> sides of its leading axes, or None for a layer without channels of its own."""
    if isinstance(layer, nn.PReLU) and layer.num_parameters == 1:
        return None  # one slope for all channels
    for kind, axes in _AXES.items():
        if isinstance(layer, kind):
            if is_depthwise(layer):
                # One filter a channel: the input side has no axis of its own.
                return {"weight": (OUT,), "bias": (OUT,)}
            return axes
    return None


def is_depthwise(layer: nn.Module) -> bool:
    """Whether a convolution makes each channel from the same one alone."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups == layer.in_channels == layer.out_channels > 1


def is_grouped(layer: nn.Module) -> bool:
    """Whether a convolution has several groups without being depthwise."""
    return isinstance(layer, CONVOLUTIONS) and layer.groups > 1 and not is_depthwise(layer)


def width(layer: nn.Module, side: str) -> int:
    """Number of channels a layer has on one side."""
    axes = axes_of(layer)
    if axes is None or side not in axes["weight"]:
        side = OUT
    if axes is not None and layer.weight is not None:
        return layer.weight.shape[axes["weight"].index(side)]
    # A norm without weights still has statistics, and they shrink.
    return layer.num_features if layer.running_mean is None else layer.running_mean.shape[0]


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


@torch.no_grad()
def keep_channels(layer: nn.Module, side: str, kept: Tensor) -> None:
    """Removes all channels of one side of a layer but the given ones, in place.

    Args:
        layer: a layer of the table above.
        side: OUT or IN.
        kept: int64 [K], positions that stay, ascending.
    """
    for name, sides in axes_of(layer).items():
        tensor = getattr(layer, name, None)
        if tensor is None or side not in sides:
            continue
        _replace(layer, name, sliced(tensor.detach(), sides.index(side), kept))
    _refresh_attributes(layer)


def sliced(tensor: Tensor, axis: int, kept: Tensor) -> Tensor:
    """The given positions of one axis of a tensor, in the tensor's memory format.

    Args:
        tensor: any.
        axis: one of its axes.
        kept: int64 [K], positions on that axis.
    """
    smaller = tensor.index_select(axis, kept.to(tensor.device))
    # index_select gives a plain contiguous tensor.
    if tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        smaller = smaller.contiguous(memory_format=torch.channels_last)
    return smaller


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
            _refresh_attributes(layer)


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


def _refresh_attributes(layer: nn.Module) -> None:
    """Makes a layer's width attributes agree with its tensors."""
    if isinstance(layer, CONVOLUTIONS):
        if is_depthwise(layer):
            layer.groups = layer.in_channels = layer.out_channels = layer.weight.shape[0]
        else:
            layer.out_channels = width(layer, OUT) * (layer.groups if isinstance(layer, nn.ConvTranspose2d) else 1)
            layer.in_channels = width(layer, IN) * (layer.groups if isinstance(layer, nn.Conv2d) else 1)
    elif isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, nn.modules.batchnorm._BatchNorm):
        layer.num_features = width(layer, OUT)
    elif isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (*layer.normalized_shape[:-1], layer.weight.shape[-1])
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = layer.weight.numel()
