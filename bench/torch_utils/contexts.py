"""Training and evaluation mode of the modules of a network, and mixed precision."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

_BATCHNORM = nn.modules.batchnorm._BatchNorm


def autocast(device: torch.device, amp: str) -> contextlib.AbstractContextManager[None]:
    """Mixed precision for a forward pass: `none`, `bf16` or `fp16`."""
    if amp == "none":
        return contextlib.nullcontext()
    return torch.autocast(device.type, torch.bfloat16 if amp == "bf16" else torch.float16)


@contextlib.contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Gives every module its training flag back after the block."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training


@contextlib.contextmanager
def attention_in_parts() -> Iterator[None]:
    """Lets torch's own attention modules call their operators one by one, and no fused one in their place."""
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextlib.contextmanager
def batch_statistics(model: nn.Module) -> Iterator[None]:
    """Lets BatchNorm normalise by the statistics of the batch and leave its running ones alone.

    All other modules are in evaluation mode in the block. Afterwards everything is as it was.
    """
    norms = [module for module in model.modules() if isinstance(module, _BATCHNORM)]
    tracked = [norm.track_running_stats for norm in norms]
    with flags_kept(model):
        model.eval()
        try:
            for norm in norms:
                norm.train()
                norm.track_running_stats = False
            yield
        finally:
            for norm, tracks in zip(norms, tracked, strict=True):
                norm.track_running_stats = tracks
