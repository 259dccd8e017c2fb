"""Greedy choice of the channels whose readers lose least, each removal taking into account those before it.

A reader is a layer with weights W [outputs, inputs] and the covariance H of its inputs. Without input c, and with the
best of all other weights for what is left, its output loses the variance |W_c|^2 / [H^-1]_cc (Hassibi and Stork, 1993).
Afterwards the weights are  W - W_c [H^-1]_c: / [H^-1]_cc  and the inverse  H^-1 - [H^-1]_:c [H^-1]_c: / [H^-1]_cc.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class Reader:
    """What one layer has left of what it reads, while channels of one group go.

    Only the columns of the group's channels are followed, and of the weights only their products: a removal is kept as
    the vectors that describe it, and a row of a matrix is brought up to date when it is needed. Removing C channels so
    takes O(C^3) multiplications and no copy of a matrix.
    """

    def __init__(self, inverse: Tensor, products: Tensor, positions: Tensor, channels: Tensor, count: int):
        """Picks the group's columns.

        Args:
            inverse: float64 [I, I], of the covariance of all that the layer reads.
            products: float64 [I, I], W^T W over outputs and places of the kernel.
            positions: int64 [K], inputs of the layer that are the group's.
            channels: int64 [K], the channel of each.
            count: channels of the group.
        """
        slots = _slots(positions, channels, count).to(inverse.device)
        there, index = (slots >= 0).flatten(), slots.clamp(min=0).flatten()
        # What a channel lacks beside others of more positions is an input without weight that no other depends on.
        both = there[:, None] & there[None, :]
        self._inverse = torch.where(both, inverse[index][:, index], 0.0) + torch.diag((~there).to(inverse))
        self._products = torch.where(both, products[index][:, index], 0.0)
        self._size = slots.shape[1]
        self._blocks = self._diagonal(self._inverse)
        self._energies = self._diagonal(self._products)
        rows = len(index)
        self._done = 0
        self._directions, self._crossings = (inverse.new_empty(rows, rows) for _ in range(2))
        self._norms = inverse.new_empty(rows)

    def losses(self) -> Tensor:
        """The variance that the output would lose with each channel: float64 [count]; of those gone it is nothing."""
        if self._size == 1:
            return (self._energies / self._blocks).flatten()
        return torch.linalg.solve(self._blocks, self._energies).diagonal(dim1=1, dim2=2).sum(1)

    def remove(self, channel: int) -> None:
        """Takes a channel away and gives its part to the others."""
        for slot in range(channel * self._size, (channel + 1) * self._size):
            self._remove(slot)

    def _remove(self, slot: int) -> None:
        done = slice(self._done)
        directions, crossings, norms = self._directions[done], self._crossings[done], self._norms[done]
        own, across = directions[:, slot], crossings[:, slot]
        inverse = self._inverse[slot] - own @ directions
        products = self._products[slot] - own @ crossings - (across - norms * own) @ directions
        root = inverse[slot].clamp(min=torch.finfo(inverse.dtype).tiny).sqrt()
        direction, crossing, norm = inverse / root, products / root, products[slot] / root**2
        self._directions[self._done], self._crossings[self._done], self._norms[self._done] = direction, crossing, norm
        self._done += 1
        u, g = direction.view(-1, self._size), crossing.view(-1, self._size)
        self._blocks -= u[:, :, None] * u[:, None, :]
        self._energies -= g[:, :, None] * u[:, None, :] + u[:, :, None] * g[:, None, :]
        self._energies += norm * u[:, :, None] * u[:, None, :]
        # An input that is gone is again one without weight that no other depends on.
        channel, place = divmod(slot, self._size)
        for blocks, value in ((self._blocks, 1.0), (self._energies, 0.0)):
            blocks[channel, place, :] = 0
            blocks[channel, :, place] = 0
            blocks[channel, place, place] = value

    def _diagonal(self, matrix: Tensor) -> Tensor:
        """The blocks of each channel on the diagonal: [count, size, size]."""
        count = len(matrix) // self._size
        each = torch.arange(count, device=matrix.device)
        return matrix.view(count, self._size, count, self._size)[each, :, each, :].clone()


def removal_losses(readers: Sequence[Reader], count: int) -> Tensor:
    """What is lost when the channels of a group go one after the other, always the one of least loss.

    Args:
        readers: the layers that read them, used up.
        count: how many channels there are.

    Returns:
        float64 [count], rising in the order in which they go: the loss of each removal, or, where one costs less than
        an earlier one, a little more than that.
    """
    rising, last = torch.empty(count, dtype=torch.float64), 0.0
    there = torch.ones(count, dtype=torch.bool)
    for _ in range(count):
        losses = torch.stack([reader.losses() for reader in readers]).sum(0)
        channel = int(torch.where(there, losses.cpu(), torch.inf).argmin())
        last = max(float(losses[channel]), last * (1 + 1e-6) + 1e-12)
        rising[channel] = last
        there[channel] = False
        for reader in readers:
            reader.remove(channel)
    return rising


def _slots(positions: Tensor, channels: Tensor, count: int) -> Tensor:
    """The positions of each channel: int64 [count, most of a channel], -1 where it has fewer."""
    most = int(torch.bincount(channels, minlength=count).max())
    slots = torch.full((count, most), -1, dtype=torch.int64)
    filled = [0] * count
    for position, channel in zip(positions.tolist(), channels.tolist(), strict=True):
        slots[channel, filled[channel]] = position
        filled[channel] += 1
    return slots
