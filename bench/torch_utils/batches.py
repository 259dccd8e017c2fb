"""A batch of images and labels, and how it and a network get to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.errors import BenchError

Batch = tuple[Tensor, Tensor]
"""Images float32 [N, 3, h, w] and labels int64 [N, H, W]."""


def to_device(model: nn.Module, device: torch.device, channels_last: bool) -> None:
    """Moves a network, in place."""
    model.to(device)
    if channels_last:
        model.to(memory_format=torch.channels_last)


def moved(images: Tensor, labels: Tensor, device: torch.device, channels_last: bool) -> Batch:
    """Moves a batch without waiting for the copy."""
    layout = torch.channels_last if channels_last else torch.preserve_format
    return images.to(device, non_blocking=True, memory_format=layout), labels.to(device, non_blocking=True)


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
            f"BatchNorm after global pooling cannot train on a batch of one image; raise {flag} to at least 2"
        ) from error
