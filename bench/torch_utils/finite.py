"""Whether the weights of a network are still numbers."""

from __future__ import annotations

import torch
from torch import nn


def has_finite_weights(model: nn.Module) -> bool:
    """Whether all floating-point parameters and buffers are finite; a GPU is waited for once, not for every tensor."""
    tensors = [tensor for tensor in model.state_dict().values() if tensor.is_floating_point()]
    return bool(torch.stack([tensor.isfinite().all() for tensor in tensors]).all())
