"""Boundary F-score: how well the outlines of the classes are found.

The F-measure of Csurka et al. ("What is a good evaluation measure for semantic segmentation?", BMVC 2013): of the
pixels on the predicted outline of a class the share that lies within a distance of its true outline (precision), of
those on the true outline the share within that distance of the predicted one (recall), and their harmonic mean. The
distance is Euclidean, in pixels or as a share of the image's diagonal as in Perazzi et al. (CVPR 2016), who take
0.008. Unlike both, who average over images, pixels are summed over the whole split before shares are taken, as for
the IoU: an image with little of a class does not weigh as much as one that is full of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.metrics import BoundaryScore
from bench.system import processes


class BoundaryCounts:
    """Counts outline pixels, and those of them with a counterpart, over as many batches as wanted.

    A pixel is on the outline of its class if one of its four neighbours belongs to another class. Void has no
    outline, and neither has a class towards void or the image's edge; outline pixels nearer to void than the
    tolerance are not judged, since their counterpart may lie there.

    Attributes:
        counts: int64 [2, 2, K]: by class, all and matched outline pixels of the predictions and of the labels.
    """

    def __init__(self, classes: Classes, width: float, device: torch.device | str = "cpu"):
        """Starts from zero.

        Args:
            classes: the label set, of at most 62 classes.
            width: the tolerance: whole pixels of the label, or below 1 a share of its diagonal.
            device: where to count.

        Raises:
            BenchError: more than 62 classes.
        """
        self._classes, self._width, self._scored = classes, width, len(classes.names)
        # The outlines near a pixel are the bits of one number: a bit for each class, one for void, one is the sign.
        if self._scored > 62:
            raise BenchError(
                f"the boundary F-score knows at most 62 classes, not {self._scored}; set `boundary_width=0`"
            )
        self.counts = torch.zeros(2, 2, self._scored, dtype=torch.int64, device=device)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: integer [N, H, W], the output chosen for each pixel.
            label: integer [N, H, W], class ids and `ignore_index`.
        """
        prediction, label = (ids.to(self.counts.device, torch.int64) for ids in (prediction, label))
        void = label == self._classes.ignore_index
        outlines = [self._outline(ids, void) for ids in (prediction, label)]
        predicted_bits, true_bits = map(_bits, (prediction, label), outlines)
        radius = self._radius(label.shape[-2:])
        near_predicted = dilated(predicted_bits, radius)
        near_true = dilated(true_bits | void.long() << self._scored, radius)
        is_judged = (near_true >> self._scored) & 1 == 0
        sides = zip((prediction, label), outlines, (near_true, near_predicted), strict=True)
        for row, (ids, outline, near) in zip(self.counts, sides, strict=True):
            judged = outline & is_judged
            ids, near = ids[judged], near[judged]
            row[0] += torch.bincount(ids, minlength=self._scored)
            row[1] += torch.bincount(ids[(near >> ids) & 1 == 1], minlength=self._scored)

    def score(self) -> BoundaryScore:
        """Reads the F-scores off the counts of all processes."""
        counts = processes.sum_over_processes(self.counts.clone()).cpu().double()
        all_pixels, matched = counts[:, 0], counts[:, 1]
        precision, recall = (matched / all_pixels).nan_to_num()
        score = (2 * precision * recall / (precision + recall)).nan_to_num()
        score[all_pixels.sum(dim=0) == 0] = math.nan
        by_class = dict(zip(self._classes.names, score.tolist(), strict=True))
        return BoundaryScore(self._width, score.nanmean().item(), by_class)

    def _radius(self, size: Sequence[int]) -> int:
        if self._width >= 1:
            return int(self._width)
        return max(1, round(self._width * math.hypot(*size)))

    def _outline(self, ids: Tensor, void: Tensor) -> Tensor:
        """Which pixels of scored classes border on another class, as bool [N, H, W]."""
        outline = torch.zeros_like(void)
        for dim in (-2, -1):
            steps = ids.shape[dim] - 1
            differs = ids.narrow(dim, 0, steps) != ids.narrow(dim, 1, steps)
            differs &= ~(void.narrow(dim, 0, steps) | void.narrow(dim, 1, steps))
            outline.narrow(dim, 0, steps).logical_or_(differs)
            outline.narrow(dim, 1, steps).logical_or_(differs)
        return outline & (ids < self._scored)


def dilated(bits: Tensor, radius: int) -> Tensor:
    """Gives every pixel the bits of all pixels within a Euclidean distance.

    Args:
        bits: int64 [N, H, W].
        radius: the distance in pixels.

    Returns:
        int64 [N, H, W].
    """
    found, row, reach = torch.zeros_like(bits), bits.clone(), 0
    # From the disk's poles to its middle: rows further in reach further out.
    for height in range(radius, -1, -1):
        while reach < math.isqrt(radius**2 - height**2):
            reach += 1
            _merge_shifted(row, bits, -1, reach)
        _merge_shifted(found, row, -2, height)
    return found


def _bits(ids: Tensor, chosen: Tensor) -> Tensor:
    """int64 numbers with the bit of the pixel's id set where it is chosen, 0 elsewhere."""
    return chosen.long() << ids.where(chosen, 0)


def _merge_shifted(into: Tensor, bits: Tensor, dim: int, step: int) -> None:
    """ORs bits, moved both ways along a dimension, into a tensor of the same shape."""
    rest = bits.shape[dim] - step
    if rest > 0:
        into.narrow(dim, step, rest).bitwise_or_(bits.narrow(dim, 0, rest))
        into.narrow(dim, 0, rest).bitwise_or_(bits.narrow(dim, step, rest))
