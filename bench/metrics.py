"""Quality of a segmentation: one confusion matrix over a whole split, and what is read off it.

The counting follows cityscapesScripts: pixels whose label is ignored count nowhere, a scored pixel predicted
as something that is not scored is a miss of its class, and a class that occurs neither in the labels nor in
the predictions has no IoU. A class that is predicted but never true has IoU 0.

The counts of each image are kept, so that an interval can say how much a score depends on the choice of images
(bootstrap: Efron, Annals of Statistics 1979). Images are drawn as if independent; neighbouring frames of a video are
not, and then the interval is too narrow.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.datasets.base import Classes
from bench.errors import BenchError
from bench.system import processes

Interval = tuple[float, float]

RESAMPLES = 2000
CONFIDENCE = 0.95


@dataclass(frozen=True)
class BoundaryScore:
    """How well outlines are found; shares in [0, 1].

    Attributes:
        width: the tolerance: pixels of the label, below 1 a share of its diagonal.
        f_score: mean over the classes that have one.
        by_class: F-score by class name; nan for a class without an outline in both labels and predictions.
    """

    width: float
    f_score: float
    by_class: dict[str, float]


@dataclass(frozen=True)
class Quality:
    """How well a network segments a split; shares in [0, 1], nan where nothing was there to measure.

    Attributes:
        miou: mean of the IoU over the classes that have one.
        iou: IoU by class name; nan for a class neither labelled nor predicted.
        pixel_accuracy: share of the scored pixels whose class is right.
        class_accuracy: mean over the labelled classes of the share of their pixels found.
        frequency_weighted_iou: IoU weighted by each class's share of the scored pixels.
        classes_present: number of classes that have an IoU, i.e. that `miou` is the mean over.
        miou_interval: bootstrap 95 % interval of `miou` over the images; None for fewer than two.
        boundary: how well outlines are found, if that was measured.
    """

    miou: float
    iou: dict[str, float]
    pixel_accuracy: float
    class_accuracy: float
    frequency_weighted_iou: float
    classes_present: int
    miou_interval: Interval | None = None
    boundary: BoundaryScore | None = None


class ConfusionMatrix:
    """Counts pixels by (true class, predicted output) over as many batches as wanted, image by image.

    Attributes:
        classes: the label set.
    """

    def __init__(self, classes: Classes, device: torch.device | str = "cpu"):
        self.classes = classes
        self._images = [torch.zeros(0, len(classes.names), classes.outputs, dtype=torch.int64, device=device)]

    @property
    def per_image(self) -> Tensor:
        """The counts of each image, int64 [N, K, outputs]: scored classes by outputs of the network."""
        return torch.cat(self._images)

    @property
    def counts(self) -> Tensor:
        """The counts of all images, int64 [K, outputs]."""
        return self.per_image.sum(dim=0)

    def update(self, prediction: Tensor, label: Tensor) -> None:
        """Adds a batch.

        Args:
            prediction: integer [N, H, W], the output chosen for each pixel, in [0, outputs).
            label: integer [N, H, W], class ids and `ignore_index`.

        Raises:
            ValueError: the two differ in shape.
            BenchError: a label id that is neither a scored class nor ignored.
        """
        if prediction.shape != label.shape:
            raise ValueError(f"prediction is {list(prediction.shape)}, label {list(label.shape)}; sizes must agree")
        device = self._images[0].device
        label = label.to(device, torch.int64)
        # Ignored pixels go to a cell of their own before all others: picking out the rest would cost a
        # copy, and an id beyond the classes shows as one cell too many. In place, because fresh memory is slow.
        cell = (label * self.classes.outputs).add_(prediction.to(device)).add_(1)
        cell.masked_fill_(label == self.classes.ignore_index, 0)
        self._images += [self._counted(image) for image in cell]

    def _counted(self, cell: Tensor) -> Tensor:
        shape = (1, len(self.classes.names), self.classes.outputs)
        cells = math.prod(shape)
        counts = torch.bincount(cell.flatten(), minlength=cells + 1)
        if counts.numel() > cells + 1:
            raise BenchError(
                f"a label holds an id that is neither one of the {len(self.classes.names)} classes nor "
                f"{self.classes.ignore_index} (ignored); check the data set's labels"
            )
        return counts[1:].view(shape)

    def gather(self) -> None:
        """Takes in the images of the other processes, in the order of the data set."""
        self._images = [processes.in_order(self.per_image)]

    def quality(self) -> Quality:
        """Reads the metrics off the counts."""
        per_image = self.per_image
        hits, labelled, predicted = _sums(per_image.sum(dim=0))
        # 0 / 0 is nan, which is what an absent class is worth.
        iou = hits / (labelled + predicted - hits)
        return Quality(
            miou=iou.nanmean().item(),
            iou=dict(zip(self.classes.names, iou.tolist(), strict=True)),
            pixel_accuracy=(hits.sum() / labelled.sum()).item(),
            class_accuracy=(hits / labelled).nanmean().item(),
            frequency_weighted_iou=((labelled * iou.nan_to_num()).sum() / labelled.sum()).item(),
            classes_present=int((~iou.isnan()).sum()),
            miou_interval=miou_interval(per_image),
        )


def miou_interval(per_image: Tensor) -> Interval | None:
    """Bootstrap 95 % interval of mIoU over the images (percentiles, fixed seed); None for fewer than two images.

    Args:
        per_image: counts of each image, [N, K, outputs].
    """
    return _interval(resampled_miou(per_image)) if len(per_image) > 1 else None


def miou_change_interval(before: Tensor, after: Tensor) -> Interval | None:
    """Bootstrap 95 % interval of how much one mIoU is above another, both taken over the same resamples of the images.

    An image that is hard for one network is hard for the other, so this interval is narrower than those of the two.

    Args:
        before: counts of each image by one network, [N, K, outputs].
        after: those of the same images by the other.

    Raises:
        ValueError: they are not counts of the same images.
    """
    # Whatever was predicted, an image has the same number of pixels of each class.
    if not torch.equal(before.sum(dim=2), after.sum(dim=2)):
        raise ValueError("the two networks were not scored on the same images in the same order")
    return _interval(resampled_miou(after) - resampled_miou(before)) if len(before) > 1 else None


def _sums(counts: Tensor) -> Tensor:
    """Hits, labelled and predicted pixels of each class: [..., K, outputs] -> float64 [3, ..., K]."""
    counts = counts.cpu().double()
    scored = counts.shape[-2]
    return torch.stack((counts.diagonal(dim1=-2, dim2=-1), counts.sum(dim=-1), counts[..., :scored].sum(dim=-2)))


def resampled_miou(per_image: Tensor) -> Tensor:
    """mIoU of as many images drawn with replacement, `RESAMPLES` times; the draws depend on their number alone."""
    images = len(per_image)
    drawn = torch.randint(images, (RESAMPLES, images), generator=torch.Generator().manual_seed(0))
    times = torch.zeros_like(drawn).scatter_add_(1, drawn, torch.ones_like(drawn)).double()
    hits, labelled, predicted = times @ _sums(per_image)
    return (hits / (labelled + predicted - hits)).nanmean(dim=-1)


def _interval(values: Tensor) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    low, high = values.nanquantile(torch.tensor([tail, 1 - tail], dtype=values.dtype)).tolist()
    return low, high
