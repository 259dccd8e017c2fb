"""Whether the weights of a network are still numbers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all floating-point parameters and buffers are finite; a GPU is waited for once, not for every tensor."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())


def first_fault(tensors: Mapping[str, Tensor]) -> str | None:
    """What makes a network useless: the first of its tensors that is not finite, or a variance below 0; else None.

    Args:
        tensors: name -> parameter or buffer.
    """
    for name, tensor in tensors.items():
        if not tensor.is_floating_point():
            continue
        wrong = int(tensor.numel() - tensor.isfinite().sum())
        if wrong:
            return f"{name} is not finite ({wrong} of {tensor.numel()} values are nan or inf)"
        if name.rpartition(".")[2] == "running_var" and (tensor < 0).any():
            return f"{name} is a variance below 0 ({float(tensor.min()):g})"
    return None
