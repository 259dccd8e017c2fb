"""Training and evaluation mode of the modules of a network."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from torch import nn


@contextlib.contextmanager
def flags_kept(model: nn.Module) -> Iterator[None]:
    """Gives every module its training flag back after the block."""
    flags = [(module, module.training) for module in model.modules()]
    try:
        yield
    finally:
        for module, training in flags:
            module.training = training
