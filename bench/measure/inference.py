"""Predicting: a network's logits for images, whole or in windows, averaged over scales and mirrored images."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.config.declare import require
from bench.measure.options import ScoringOptions

Size = tuple[int, int]
Network = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Scoring:
    """How networks are scored; the same for all that are compared.

    Attributes:
        sliding_window: (height, width) in pixels of the network's input that it sees at once; None: all of it.
        stride: (down, right) step between windows; None: two thirds of the window.
        scales: factors of the input size at which the image is shown.
        flip: whether it is shown mirrored too.
        boundary_width: tolerance of the boundary F-score in pixels of the label, below 1 as a share of its
            diagonal; 0 measures none.
    """

    sliding_window: Size | None = None
    stride: Size | None = None
    scales: tuple[float, ...] = (1.0,)
    flip: bool = False
    boundary_width: float = 0.0

    @classmethod
    def of(cls, options: ScoringOptions) -> Scoring:
        """What the options ask for.

        Raises:
            UsageError: a stride without windows or longer than they are, or a scale without an end.
        """
        window, stride = options.sliding_window, options.stride
        require(stride is None or window is not None, "`stride` is the step of `sliding_window`; pass that too")
        if window and stride:
            fits = all(step <= side for step, side in zip(stride, window, strict=True))
            require(
                fits, f"`stride={_text(stride)}` leaves gaps between windows of {_text(window)}; pass a smaller one"
            )
        require(all(map(math.isfinite, options.scales)), "`scales` must be finite")
        return cls(window, stride, tuple(options.scales), options.flip, options.boundary_width)


PLAIN = Scoring()
"""One pass over the whole image."""


def predict(
    network: Network,
    images: Tensor,
    size: Sequence[int],
    scoring: Scoring = PLAIN,
    watch: Callable[[Tensor], None] | None = None,
) -> Tensor:
    """The output chosen for each pixel.

    The logits of all passes are averaged, each scaled (bilinearly) before that to the size asked for.

    Args:
        network: maps [N, 3, h, w] to logits [N, C, h', w'], at whatever size.
        images: [N, 3, H, W], as the network wants them.
        size: (height, width) of the result.
        scoring: which passes.
        watch: is shown the logits that were chosen, float32 [N, *size].

    Returns:
        int64 [N, *size], values in [0, C).
    """
    # Every pass weighs the same, so the sum has its maximum where the mean has it.
    logits = functools.reduce(torch.add, _passes(network, images, size, scoring))
    # As `argmax(1)` says, up to ties and nan, which takes several times as long on a CPU.
    found = logits.max(1)
    if watch:
        watch(found.values)
    return found.indices


def _passes(network: Network, images: Tensor, size: Sequence[int], scoring: Scoring) -> Iterator[Tensor]:
    for scale in scoring.scales:
        shown = _scaled(images, [max(1, round(side * scale)) for side in images.shape[-2:]])
        logits = _in_windows(network, shown, scoring)
        if scoring.flip:
            logits = logits + _in_windows(network, shown.flip(-1), scoring).flip(-1)
        yield _scaled(logits, size)


def _in_windows(network: Network, images: Tensor, scoring: Scoring) -> Tensor:
    """Logits: float32 at the network's own resolution, or put together from windows at that of the images."""
    sides = images.shape[-2:]
    window = [min(wanted, side) for wanted, side in zip(scoring.sliding_window or sides, sides, strict=True)]
    if window == list(sides):
        return network(images).float()
    stride = scoring.stride or [math.ceil(2 * side / 3) for side in window]
    total, passes = None, images.new_zeros(sides)
    for top, left in itertools.product(*map(window_starts, sides, window, stride)):
        place = (..., slice(top, top + window[0]), slice(left, left + window[1]))
        logits = _scaled(network(images[place]).float(), window)
        if total is None:
            total = logits.new_zeros(*logits.shape[:2], *sides)
        total[place] += logits
        passes[place] += 1
    return total / passes


def window_starts(side: int, window: int, stride: int) -> list[int]:
    """Where windows begin along a side; the last ends with it."""
    return [*range(0, side - window, stride), side - window]


def _scaled(tensor: Tensor, size: Sequence[int]) -> Tensor:
    if list(tensor.shape[-2:]) == list(size):
        return tensor
    return F.interpolate(tensor, size=tuple(size), mode="bilinear", align_corners=False)


def _text(size: Size) -> str:
    return "{},{}".format(*size)
