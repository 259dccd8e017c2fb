"""A batch of images and labels, and how it and a network get to the device."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from bench.errors import BenchError
from bench.torch_utils.memory_format import lay_out, layout

Batch = tuple[Tensor, Tensor]
"""Images float32 [N, 3, h, w] and labels int64 [N, H, W]."""


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
            f"BatchNorm after global pooling cannot train on a batch of one image; raise {flag} to at least 2"
        ) from error
