"""How the tensors of networks and images lie in memory: contiguous, or with their channels last."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor, nn


def layout(channels_last: bool) -> torch.memory_format:
    """Torch's name of a format."""
    return torch.channels_last if channels_last else torch.contiguous_format


def contiguous(tensor: Tensor) -> Tensor:
    """The tensor, or a copy of it, with the strides of a new one of its shape.

    `Tensor.contiguous` leaves those of a 1x1 kernel as they are, for any will do to read it; but convolutions choose
    their format by them.
    """
    return tensor.to(memory_format=torch.contiguous_format)


def is_laid_out(model: nn.Module, channels_last: bool) -> bool:
    """Whether all feature maps and kernels of a network have the strides of a format."""
    tensors = itertools.chain(model.parameters(), model.buffers())
    return all(tensor.stride() == _strides(tensor, channels_last) for tensor in tensors if tensor.dim() == 4)


def lay_out(model: nn.Module, channels_last: bool) -> None:
    """Brings a network to a format, in place; not in inference mode, which would make it unfit to train."""
    # `Module.to` would lay out tensors of five axes, too, for which the format is not made.
    model._apply(lambda tensor: tensor.to(memory_format=layout(channels_last)) if tensor.dim() == 4 else tensor)


def _strides(tensor: Tensor, channels_last: bool) -> tuple[int, ...]:
    return torch.empty(tensor.shape, device="meta").to(memory_format=layout(channels_last)).stride()
