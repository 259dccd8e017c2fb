"""Sparse weights: zeroing single weights, and keeping them at zero through training.

A saved network names its sparse tensors in its meta data. The zeros in them are the mask: a mask beside them would
make the file larger, and would have to be cut along when channels are removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

SPARSE = "sparse_tensors"
"""Key of the meta data: the names of the tensors whose zeros stay."""


@torch.no_grad()
def set_to_zero(model: nn.Module, zeroed: Mapping[str, Tensor]) -> None:
    """Zeroes single weights, in place.

    Args:
        model: any network.
        zeroed: parameter name -> bool, shaped as the parameter, true where it becomes zero.
    """
    for name, zeros in zeroed.items():
        model.get_parameter(name).masked_fill_(zeros, 0.0)


class FixedZeros:
    """Holds the zeros of a network's sparse tensors through training."""

    def __init__(self, model: nn.Module, names: Iterable[str]):
        """Notes where the zeros are.

        Args:
            model: the network, on the device it is trained on.
            names: its sparse tensors; none for a dense network.
        """
        sparse = [model.get_parameter(name) for name in names]
        self._zeros = [(parameter, parameter.detach() == 0) for parameter in sparse]

    @torch.no_grad()
    def restore(self) -> None:
        """Zeroes the weights that were zero; to be called after whatever changes weights."""
        for parameter, zeros in self._zeros:
            # Filled, not multiplied: a negative zero is another byte pattern and compresses badly.
            parameter.masked_fill_(zeros, 0.0)
