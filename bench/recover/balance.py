"""How much each position counts in a repair: mIoU asks for all classes alike, and most of an image is road and sky."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from bench.errors import BenchError
from bench.recover.patches import Places
from bench.torch_utils.outputs import logits_in

# A class with a smaller share of the pixels counts as one with this share: a few pixels must not decide everything.
_LEAST_SHARE = 1e-3

# Weighed samples are as good as fewer that count alike: at least this share of them. Classes that are too rare for that
# count as much as they can.
_LEAST_EFFECTIVE = 0.1
_STEPS = 40


class Balance:
    """Weights of positions by the class that the network before the cut predicts there; no labels are asked for.

    A pixel weighs 1 over the share of its class, to a power: at 1 every class counts as much as any other, at 0 every
    pixel does. A position of a smaller map weighs as much as the pixels it stands for do on average.
    """

    def __init__(self, power: float):
        """Nothing is weighed before predictions are seen."""
        self._power = power
        self._classes: list[Tensor] = []
        self._weights: Tensor | None = None
        self._pooled: dict[tuple[int, int], Tensor] = {}

    def see(self, output: object) -> None:
        """Takes in what the network gave for some images."""
        if not self._power:
            return
        try:
            logits = logits_in(output)
        except BenchError:
            # No map of classes: there is nothing to weigh by.
            return
        self._classes.append(logits.argmax(1).to(torch.int16).cpu())

    def at(self, positions: int, size: tuple[int, ...], places: Places) -> Tensor:
        """What some positions weigh, 1 on average over all: float [n].

        Args:
            positions: how many there are in an image.
            size: (height, width) of the map they lie in; of tokens, which have none, the grid of so many that is shaped
                as the image is, if there is one.
            places: n of them, in as many images as were seen; where they are in something else, all weigh the same.
        """
        alike = torch.ones(len(places))
        if not self._classes:
            return alike
        if self._weights is None:
            self._weights = class_balanced(torch.cat(self._classes), self._power)
        grid = tuple(size) if size else token_grid(positions, tuple(self._weights.shape[1:]))
        if grid is None or len(grid) != 2 or int(places.image.max()) >= len(self._weights):
            return alike
        if grid not in self._pooled:
            self._pooled[grid] = adaptive_avg_pool2d(self._weights[:, None], grid).flatten(1)
        return self._pooled[grid][places.image, places.position]


def class_balanced(classes: Tensor, power: float) -> Tensor:
    """Weights of pixels: 1 over the share of the class to a power, 1 on average.

    The power is lowered until the sum of the weights, squared, is a tenth of what as many equal ones would give
    (Kish's effective sample size): a few pixels must not stand for the whole.

    >>> class_balanced(torch.tensor([[[0, 0, 0, 1]]]), 1.0)
    tensor([[[0.6667, 0.6667, 0.6667, 2.0000]]])

    Args:
        classes: integers [N, H, W].
        power: 0 or more.

    Returns:
        float [N, H, W]
    """
    classes = classes.long()
    shares = torch.bincount(classes.flatten()).double() / classes.numel()
    for step in range(_STEPS, -1, -1):
        weights = shares.clamp(min=_LEAST_SHARE).pow(-power * step / _STEPS)
        weights = weights / (shares * weights).sum()
        if (shares * weights.square()).sum() <= 1 / _LEAST_EFFECTIVE:
            break
    return weights.float()[classes]


def token_grid(positions: int, size: tuple[int, int]) -> tuple[int, int] | None:
    """(height, width) of the grid of so many places that has the shape of an image of a size; None if there is none.

    >>> token_grid(12 * 16, (96, 128)), token_grid(13, (96, 128))
    ((12, 16), None)
    """
    height = max(1, round((positions * size[0] / size[1]) ** 0.5))
    width = positions // height
    is_like = height * width == positions and abs(height * size[1] - width * size[0]) <= max(size)
    return (height, width) if is_like else None
