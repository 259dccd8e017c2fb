"""The two modes of a network, without what makes a pass differ from the next."""

from __future__ import annotations

import contextlib
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.utils.spectral_norm import SpectralNorm

from bench.channels.layer_axes import NORMS
from bench.torch_utils.contexts import flags_kept

# What drops values, and a weight that comes closer to its spectral norm with every pass.
_CHANGING = (nn.modules.dropout._DropoutNd, nn.utils.parametrizations._SpectralNorm)


@contextlib.contextmanager
def without_chance(model: nn.Module, is_training: bool) -> Iterator[None]:
    """Evaluation or training mode with modules that drop nothing and norms that keep their statistics.

    Random numbers begin with the same seed, and go on afterwards as if nothing had been drawn. What a pass writes into
    buffers, such as a moving average, is taken back.
    """
    buffers = [(module, name, tensor) for module in model.modules() for name, tensor in module._buffers.items()]
    values = [None if tensor is None else tensor.clone() for _, _, tensor in buffers]
    with flags_kept(model), _same_numbers():
        model.train(is_training)
        for module in model.modules():
            if isinstance(module, (*NORMS, *_CHANGING)) or _is_normed_by_hook(module):
                module.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for (module, name, tensor), value in zip(buffers, values, strict=True):
                    module._buffers[name] = tensor
                    if tensor is not None:
                        tensor.copy_(value)


@contextlib.contextmanager
def _same_numbers() -> Iterator[None]:
    """Seeds every generator that a network's code may draw from, and puts it back."""
    others = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            random.seed(0)
            np.random.seed(0)
            yield
    finally:
        random.setstate(others[0])
        np.random.set_state(others[1])


def _is_normed_by_hook(module: nn.Module) -> bool:
    """Whether a layer has spectral norm of the old style, which moves on with every pass in training mode."""
    return any(isinstance(hook, SpectralNorm) for hook in module._forward_pre_hooks.values())
