"""Networks whose published files call the tensors otherwise than the network does."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from bench.errors import BenchError


@runtime_checkable
class HasPublishedNames(Protocol):
    """A network that knows the names of its tensors in files of other programs."""

    def own_names(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The tensors of a file under the names of this network; what it does not know stays as it is.

        Raises:
            BenchError: the file is of a network that only looks alike.
        """
        ...


def own_names(model: nn.Module, weights: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """The tensors of a file, without wrappers' names, under the names of a network.

    Args:
        model: the network, possibly on the meta device.
        weights: name -> tensor of a file.
        where: the beginning of the message: which file does not fit which network.

    Raises:
        BenchError: the file is of a network that only looks alike.
    """
    if not isinstance(model, HasPublishedNames):
        return dict(weights)
    try:
        return model.own_names(weights)
    except BenchError as error:
        raise BenchError(f"{where}: {error}") from error
