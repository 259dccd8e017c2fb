"""The quantities of SIRFP on plain tensors: how alike feature maps are, how edged, and what is left of each channel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

# A symmetric product of so few rows is multiplied out; of a larger one only the upper half is.
_ROWS = 64
# Values of feature maps at a time in the edge filter: its scratch memory is used again while it is in the cache.
_VALUES = 2**18


class FeatureAverages:
    """What SIRFP averages over the calibration batches for one layer: similarities, and how edged each map is.

    Exponential moving averages from zero, divided by the weight they have gathered, so that a few batches mean the
    same as many.
    """

    def __init__(self, decay: float, *, edges: bool, per_area: bool):
        """Starts at nothing.

        Args:
            decay: weight of all earlier batches when one more is added, in [0, 1).
            edges: whether to measure the edges of feature maps; without, they stay zero.
            per_area: whether to multiply similarities by the number of positions.
        """
        self._decay, self._with_edges, self._per_area = decay, edges, per_area
        self._weight = 0.0
        self._similarity, self._edges = torch.empty(0, 0), torch.empty(0)

    @property
    def is_empty(self) -> bool:
        """Whether no batch was added."""
        return self._weight == 0

    def add(self, features: Tensor) -> None:
        """Adds a batch.

        Args:
            features: float32 [N, C, H, W]; features [N, C, positions] are no maps and have no edges.
        """
        images, channels = features.shape[:2]
        if self.is_empty:
            self._similarity, self._edges = features.new_zeros(channels, channels), features.new_zeros(channels)
        weight = (1 - self._decay) / images
        self._weight = self._decay * self._weight + 1 - self._decay
        self._similarity *= self._decay
        self._edges *= self._decay
        for maps in features:
            area = maps[0].numel() if self._per_area else 1
            add_similarity(self._similarity, maps.flatten(1), weight * area)
            if self._with_edges and maps.dim() == 3:
                self._edges += weight * edge_strength(maps)

    def redundancy(self) -> Tensor:
        """Absolute value of the averaged similarities: [C, C], symmetric."""
        upper = self._similarity.triu().abs() / self._weight
        return upper + upper.triu(1).T

    def edges(self) -> Tensor:
        """Averaged strength of edges: [C], zeros where none was added."""
        return self._edges / self._weight


def add_similarity(total: Tensor, maps: Tensor, weight: float = 1.0) -> None:
    """Adds the inner products of one image's feature maps, each scaled to an L1 norm of 1, in place.

    Args:
        total: float32 [C, C]; what is on and above the diagonal is right afterwards, what is below it undefined.
        maps: float32 [C, positions].
        weight: factor of what is added.
    """
    _add_upper(total, maps / (maps.abs().sum(dim=1, keepdim=True) + 1e-5), weight)


def _add_upper(total: Tensor, rows: Tensor, weight: float) -> None:
    """Adds weight * rows @ rows.T to what is on and above the diagonal, block by block and without a copy."""
    if len(rows) <= _ROWS:
        total.addmm_(rows, rows.T, alpha=weight)
        return
    half = len(rows) // 2
    total[:half, half:].addmm_(rows[:half], rows[half:].T, alpha=weight)
    _add_upper(total[:half, :half], rows[:half], weight)
    _add_upper(total[half:, half:], rows[half:], weight)


def edge_strength(maps: Tensor) -> Tensor:
    """Standard deviation over positions of the Sobel gradient's length, outside of the map being zeros.

    The filter is [-.5 0 .5; -1 0 1; -.5 0 .5] and its transpose. It runs over the rows of several padded maps written
    one behind the other, where a neighbour is a constant number of places away; what it gives for the padding is
    dropped.

    Args:
        maps: float32 [C, H, W].

    Returns:
        float32 [C]
    """
    channels, height, width = maps.shape
    count = min(channels, max(1, _VALUES // (height * width)))
    row = width + 2
    padded, smooth, length, other = maps.new_zeros(4, count * (height + 2) * row)
    size = len(padded)

    def inside(flat: Tensor) -> Tensor:
        return flat.view(count, height + 2, row)[:, 1:-1, 1:-1]

    result = []
    for part in maps.split(count):
        inside(padded)[: len(part)] = part
        down = torch.add(padded[: -2 * row], padded[2 * row :], out=smooth[: size - 2 * row])
        torch.add(padded[row:-row], down, alpha=0.5, out=down)
        along_x = torch.sub(down[2:], down[:-2], out=length[row + 1 : size - row - 1])
        right = torch.add(padded[:-2], padded[2:], out=smooth[: size - 2])
        torch.add(padded[1:-1], right, alpha=0.5, out=right)
        along_y = torch.sub(right[2 * row :], right[: -2 * row], out=other[: size - 2 * row - 2])
        along_x.square_().addcmul_(along_y, along_y).sqrt_()
        lengths = other[: part.numel()].view_as(part).copy_(inside(length)[: len(part)]).flatten(1)
        lengths -= lengths.mean(dim=1, keepdim=True)
        result.append(torch.linalg.vector_norm(lengths, dim=1))
    return torch.cat(result) / (height * width) ** 0.5


def removal_scores(redundancy: Tensor, bonus: Tensor) -> Tensor:
    """Removes the most redundant channel again and again; a channel's score falls by its redundancy at that moment.

    The redundancy of a channel is the sum of its similarities with the channels still there, itself included. The sums
    are updated instead of formed anew, so that all removals together take O(C^2).

    Args:
        redundancy: [C, C], symmetric, non-negative.
        bonus: [C], what the scores start at.

    Returns:
        float64 [C], larger = keep.
    """
    matrix = redundancy.double().cpu().numpy()
    left = matrix.sum(axis=1)
    scores = bonus.double().cpu().numpy().copy()
    for _ in range(len(matrix)):
        worst = int(left.argmax())
        scores[worst] -= left[worst]
        left -= matrix[worst]
        left[worst] = -np.inf
    return torch.from_numpy(scores)


def matched(scores: Tensor, own: Tensor, other: Tensor) -> Tensor:
    """The scores of other channels with the same standing: of as many, in proportion, that score at most as much.

    Args:
        scores: [C], some of `own`.
        own: [N], the scores they stand among.
        other: [M], the scores to choose from.

    Returns:
        [C], each one of `other`.
    """
    at_most = torch.searchsorted(own.sort().values, scores, right=True)
    place = (at_most * len(other) + len(own) - 1) // len(own)
    return other.sort().values[place - 1]
