"""The two modes of a network, without what makes a pass differ from the next."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn

from bench.channels.layer_axes import NORMS
from bench.torch_utils.contexts import flags_kept

# What drops values, and a weight that comes closer to its spectral norm with every pass.
_CHANGING = (nn.modules.dropout._DropoutNd, nn.utils.parametrizations._SpectralNorm)


@contextlib.contextmanager
def without_chance(model: nn.Module, is_training: bool) -> Iterator[None]:
    """Evaluation or training mode with modules that drop nothing and norms that keep their statistics.

    Random numbers begin with the same seed, and go on afterwards as if nothing had been drawn.
    """
    with flags_kept(model), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model.train(is_training)
        for module in model.modules():
            if isinstance(module, (*NORMS, *_CHANGING)):
                module.eval()
        yield
