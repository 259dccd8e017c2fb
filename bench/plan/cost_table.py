"""What a network would cost with fewer channels, computed from a table without cutting anything.

Every parameter and every multiply-accumulate belongs to a weight tensor, and the size of a weight tensor is
a product of widths: `parameters = numel`, `MACs = numel * (places the layer is applied at)`. Each width is
a constant less what the groups lose, so a table of tensors predicts any plan exactly.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, group_sides
from bench.channels.layer_axes import IN, OUT, axes_of
from bench.measure.cost import weight_places


class Prediction(NamedTuple):
    """The predicted cost of one image.

    Attributes:
        parameters: number of parameters.
        macs: multiply-accumulates of a forward pass.
        bytes: bytes of the tensors in the state dict.
    """

    parameters: int
    macs: int
    bytes: int


class Width(NamedTuple):
    """The width of one side of a layer: `dense` less the sum over the groups of `lost * channels the group lost`.

    Attributes:
        dense: positions there are.
        lost: int64 [groups], positions that go with a channel of each group.
    """

    dense: int
    lost: np.ndarray


class CostTable:
    """Predicts parameters, MACs and bytes from the number of channels each group keeps.

    >>> groups = find_groups(model)
    >>> table = CostTable(model, groups, (360, 480))
    >>> halved = [group.channels // 2 if group.protected is None else group.channels for group in groups]
    >>> table.dense().macs, table.predict(np.array(halved)).macs
    (6146150400, 1563494400)

    Attributes:
        channels: int64 [groups], channels of each group in the network the table was read off.
        layers: name of a layer that an image passes -> side -> its width; for convolutions and linear layers.
    """

    def __init__(self, model: nn.Module, groups: Sequence[ChannelGroup], input_size: tuple[int, int]):
        """Reads the table off a network.

        Args:
            model: the network the groups were found in.
            groups: all its groups.
            input_size: (height, width) of an image in pixels.
        """
        self.channels = np.array([group.channels for group in groups], dtype=np.int64)
        number = {group.name: column for column, group in enumerate(groups)}
        sides = group_sides(groups)
        places = weight_places(model, input_size)
        rows: list[tuple[int, list[Width], int, bool, int]] = []
        self.layers: dict[str, dict[str, Width]] = {}
        seen: set[int] = set()
        for name, layer in model.named_modules():
            axes = axes_of(layer) or {}
            for tensor_name, tensor in _own_tensors(layer):
                if id(tensor) in seen:
                    continue
                seen.add(id(tensor))
                factors = []
                rest = tensor.numel()
                for axis, side in enumerate(axes.get(tensor_name, ())):
                    losses = np.zeros(len(groups), dtype=np.int64)
                    for group, member in sides.get((name, side), ()):
                        losses[number[group.name]] += len(member.positions) // group.channels
                    # Of all axes only two can lose something in a layer of the table; the others are counted in `rest`.
                    if side in (OUT, IN) or losses.any():
                        factors.append(Width(tensor.shape[axis], losses))
                        rest //= tensor.shape[axis]
                if tensor_name == "weight" and name in places:
                    self.layers[name] = dict(zip(axes[tensor_name], factors, strict=True))
                applied = places.get(name, 0) if tensor_name == "weight" else 0
                rows.append((rest, factors, applied, isinstance(tensor, nn.Parameter), tensor.element_size()))
        one = Width(1, np.zeros(len(groups), dtype=np.int64))
        self._rest = np.array([row[0] for row in rows], dtype=np.int64)
        axes_of_rows = [(row[1] + [one, one])[:2] for row in rows]
        self._width = np.array([[axis[0] for axis in pair] for pair in axes_of_rows], dtype=np.int64)
        self._loss = np.array([[axis[1] for axis in pair] for pair in axes_of_rows], dtype=np.int64)
        self._per_element = np.array([[row[3], row[2], row[4]] for row in rows], dtype=np.int64)

    def predict(self, kept: np.ndarray) -> Prediction:
        """The cost when each group keeps that many channels.

        Args:
            kept: int [groups], in the order of the groups given to the constructor.
        """
        removed = self.channels - kept
        widths = self._width - self._loss @ removed
        numel = self._rest * widths.prod(axis=1)
        parameters, macs, size = (numel @ self._per_element).tolist()
        return Prediction(parameters, macs, size)

    def expected_macs(self, kept: Tensor) -> Tensor:
        """MACs when each group keeps so many channels on average; differentiable.

        Where a layer is narrowed on both sides the product of both means is taken. For whole numbers it is what
        `predict` says.

        Args:
            kept: float64 [groups] on the CPU.

        Returns:
            A float64 scalar.
        """
        macs = self._rest * self._per_element[:, 1]
        rows = macs > 0
        removed = torch.from_numpy(self.channels) - kept
        widths = torch.from_numpy(self._width[rows]) - torch.from_numpy(self._loss[rows]).to(kept) @ removed
        return (torch.from_numpy(macs[rows]) * widths.prod(dim=1)).sum()

    def products(self, what: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """A cost as a sum of products of two widths each: `factor * prod(dense - lost @ removed)`.

        Args:
            what: a field of `Prediction`.

        Returns:
            factor float64 [terms], dense float64 [terms, 2] and lost float64 [terms, 2, groups].
        """
        factor = self._rest * self._per_element[:, Prediction._fields.index(what)]
        rows = factor > 0
        return tuple(part[rows].astype(np.float64) for part in (factor, self._width, self._loss))

    def dense(self) -> Prediction:
        """The cost with every channel kept."""
        return self.predict(self.channels)


def _own_tensors(layer: nn.Module) -> list[tuple[str, Tensor]]:
    buffers = [(n, t) for n, t in layer._buffers.items() if n not in layer._non_persistent_buffers_set]
    return [(n, t) for n, t in (*layer._parameters.items(), *buffers) if t is not None]
