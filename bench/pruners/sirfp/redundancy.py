"""The quantities of SIRFP on plain tensors: how alike feature maps are, how edged, and what is left of each channel."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

# Rows of a product of two matrices at a time; only blocks on and above the diagonal are multiplied.
_ROWS = 256
# Values of feature maps at a time, so that the filter's intermediate results stay in the cache.
_VALUES = 2**18


def similarity(maps: Tensor) -> Tensor:
    """Inner products of the feature maps of one image, each scaled to an L1 norm of 1.

    Args:
        maps: float32 [C, positions].

    Returns:
        float32 [C, C], symmetric; it and one block of rows are all the memory that is needed.
    """
    scale = 1 / (torch.linalg.vector_norm(maps, ord=1, dim=1) + 1e-5)
    result = maps.new_empty(len(maps), len(maps))
    for start in range(0, len(maps), _ROWS):
        rows = slice(start, start + _ROWS)
        block = maps[rows] @ maps[start:].T * scale[start:] * scale[rows, None]
        result[rows, start:] = block
        result[start:, rows] = block.T
    return result


def edge_strength(maps: Tensor) -> Tensor:
    """Standard deviation over positions of the Sobel gradient's length, outside of the map being zeros.

    Args:
        maps: float32 [C, H, W].

    Returns:
        float32 [C]
    """
    size = max(1, _VALUES // maps[0].numel())
    return torch.cat([_sobel_length(part).flatten(1).std(dim=1, correction=0) for part in maps.split(size)])


def _sobel_length(maps: Tensor) -> Tensor:
    """sqrt(gx^2 + gy^2) with the filter [-.5 0 .5; -1 0 1; -.5 0 .5] and its transpose: [C, H, W] -> [C, H, W]."""
    padded = pad(maps, (1, 1, 1, 1))
    down = padded[:, :-2].add(padded[:, 2:]).mul_(0.5).add_(padded[:, 1:-1])
    along_x = down[..., 2:] - down[..., :-2]
    right = padded[..., :-2].add(padded[..., 2:]).mul_(0.5).add_(padded[..., 1:-1])
    along_y = right[:, 2:] - right[:, :-2]
    return along_x.square_().addcmul_(along_y, along_y).sqrt_()


class MovingAverage:
    """Exponential moving average of tensors, corrected for its start at zero."""

    def __init__(self, decay: float):
        """Starts at nothing.

        Args:
            decay: weight of what was before, in [0, 1).
        """
        self._decay, self._weight, self._sum = decay, 0.0, None

    def add(self, tensor: Tensor) -> None:
        """Adds the next tensor; it may be changed."""
        self._weight = self._decay * self._weight + 1 - self._decay
        tensor = tensor.mul_(1 - self._decay)
        self._sum = tensor if self._sum is None else self._sum.mul_(self._decay).add_(tensor)

    def value(self) -> Tensor:
        """The average so far."""
        return self._sum / self._weight


def removal_scores(redundancy: Tensor, bonus: Tensor | float = 0.0) -> Tensor:
    """Removes the most redundant channel again and again; a channel's score falls by its redundancy at that moment.

    The redundancy of a channel is the sum of its similarities with the channels still there, itself included. Sums are
    updated, not formed anew, so all removals together take O(C^2).

    Args:
        redundancy: [C, C], symmetric, non-negative.
        bonus: what the scores start at: a number or [C].

    Returns:
        float64 [C], larger = keep.
    """
    matrix = redundancy.double().cpu().numpy()
    left = matrix.sum(axis=1)
    scores = np.zeros(len(matrix))
    for _ in range(len(matrix)):
        worst = int(left.argmax())
        scores[worst] -= left[worst]
        left -= matrix[worst]
        left[worst] = -np.inf
    return torch.from_numpy(scores) + torch.as_tensor(bonus).double().cpu()


def standings(members: list[Tensor]) -> list[Tensor]:
    """For each score the share of all the scores that are at most as large: several [C] -> as many float64 [C]."""
    ascending = torch.cat(members).double().sort().values
    return [torch.searchsorted(ascending, scores.double(), right=True) / len(ascending) for scores in members]
