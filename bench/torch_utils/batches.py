"""A batch of images and labels, and how it and a network get to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.torch_utils.memory_format import lay_out, layout

Item = TypeVar("Item")

Batch = tuple[Tensor, Tensor]
"""Images float32 [N, 3, h, w] and labels int64 [N, H, W]."""


def parts(items: Sequence[Item], size: int) -> list[Sequence[Item]]:
    """Cuts a sequence into parts of `size`; the last may be smaller, but is no single item unless all are.

    A batch of one image has no statistics behind global pooling: a lone last one goes with the batch before.

    >>> parts("abcdefg", 3), parts("abc", 1)
    (['abc', 'defg'], ['a', 'b', 'c'])
    """
    ends = [*range(size, len(items), size), len(items)]
    if size > 1 and len(ends) > 1 and len(items) - ends[-2] == 1:
        del ends[-2]
    return [items[start:end] for start, end in zip([0, *ends], ends, strict=False) if end > start]


def lone_joined(batches: Sequence[Batch]) -> list[Batch]:
    """Batches as they are, but a last one of a single image goes with the one before; see `parts`."""
    if len(batches) < 2 or len(batches[-1][0]) > 1 or len(batches[-2][0]) == 1:
        return list(batches)
    *kept, one, other = batches
    if any(left.shape[1:] != right.shape[1:] for left, right in zip(one, other, strict=True)):
        return list(batches)
    return [*kept, tuple(torch.cat(pair) for pair in zip(one, other, strict=True))]


def to_device(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    """Moves a network and brings it to a memory format, in place."""
    model.to(device)
    lay_out(model, channels_last)


def moved(images: Tensor, labels: Tensor, device: torch.device, channels_last: bool) -> Batch:
    """Moves a batch and brings its images to a memory format, without waiting for the copy."""
    shown = images.to(device, non_blocking=True, memory_format=layout(channels_last))
    return shown, labels.to(device, non_blocking=True)


@contextlib.contextmanager
def batchnorm_explained(flag: str) -> Iterator[None]:
    """Turns torch's complaint about a single value a channel into what to do about it.

    Args:
        flag: the option that sets the batch size.
    """
    try:
        yield
    except ValueError as error:
        if "more than 1 value per channel" not in str(error):
            raise
        raise BenchError(
            f"BatchNorm after global pooling cannot train on a batch of one image; raise {flag} to at least 2, and "
            "have as many training images"
        ) from error
