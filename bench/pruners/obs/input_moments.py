"""The covariance of what layers read, over sampled positions of images."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.utils.weak import WeakTensorKeyDictionary

from bench.torch_utils.batches import Batch
from bench.torch_utils.hooks import inputs_seen


class InputMoments:
    """Mean and covariance of the channels of one tensor, in float64.

    Attributes:
        layers: the layers that read it.
    """

    def __init__(self, layer: str) -> None:
        self.layers = [layer]
        self._count = 0
        self._sum = self._products = self._shift = torch.empty(0)

    def add(self, values: Tensor) -> None:
        """Adds positions: [C, n]."""
        values = values.double()
        if self._count == 0:
            # Sums of squares far from the mean lose digits; the first positions' mean is near enough.
            self._shift = values.mean(dim=1, keepdim=True)
            self._sum = values.new_zeros(len(values))
            self._products = values.new_zeros(len(values), len(values))
        values = values - self._shift
        self._count += values.shape[1]
        self._sum += values.sum(dim=1)
        self._products += values @ values.T

    @cached_property
    def covariance(self) -> Tensor:
        """float64 [C, C], of the positions as a whole population; to be asked for when all are there."""
        mean = self._sum / self._count
        return self._products / self._count - torch.outer(mean, mean)


def input_moments(
    model: nn.Module, names: Collection[str], batches: Iterable[Batch], positions: int, seed: int
) -> list[InputMoments]:
    """The moments of what some layers read, once for all that read the same tensor.

    Args:
        model: a network in evaluation mode.
        names: convolutions and linear layers. One that does not run is in no result, one that runs twice reads the
            positions of both.
        batches: images float32 [N, 3, h, w] and labels (not used).
        positions: at most that many of a batch are looked at, drawn without repetition.
        seed: seed of the draw.
    """
    layers = {name: model.get_submodule(name) for name in names}
    generator = torch.Generator().manual_seed(seed)
    found: dict[str, InputMoments] = {}
    # By object, and only while it lives; what was changed in place is another input.
    read = WeakTensorKeyDictionary()

    def look(name: str, inputs: Sequence[Tensor]) -> None:
        values = inputs[0]
        if name not in found:
            version, leader = read.get(values, (None, None))
            if version == values._version:
                found[name] = found[leader]
                found[name].layers.append(name)
                return
            found[name] = InputMoments(name)
        if found[name].layers[0] == name:
            read[values] = values._version, name
            found[name].add(_sampled(layers[name], values, positions, generator))

    device = next(model.parameters()).device
    with inputs_seen(model, names, look):
        for images, _ in batches:
            model(images.to(device))
    return list({id(moments): moments for moments in found.values()}.values())


def _sampled(layer: nn.Module, values: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Positions of a layer's input: [C, n]."""
    axis = values.dim() - 1 if isinstance(layer, nn.Linear) else 1
    values = values.movedim(axis, 0).flatten(1)
    if values.shape[1] <= most:
        return values
    return values[:, torch.randperm(values.shape[1], generator=generator)[:most].to(values.device)]
