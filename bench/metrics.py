"""Quality of a segmentation: one confusion matrix over a whole split, and what is read off it.

The counting follows cityscapesScripts: pixels whose label is ignored count nowhere, a scored pixel predicted
as something that is not scored is a miss of its class, and a class that occurs neither in the labels nor in
the predictions has no IoU. A class that is predicted but never true has IoU 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.datasets.base import Classes
from bench.errors import BenchError


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
    """

    miou: float
    iou: dict[str, float]
    pixel_accuracy: float
    class_accuracy: float
    frequency_weighted_iou: float
    classes_present: int


class ConfusionMatrix:
    """Counts pixels by (true class, predicted output) over as many batches as wanted.

    Attributes:
        classes: the label set.
        counts: int64 [K, outputs], scored classes by outputs of the network; processes may sum theirs.
    """

    def __init__(self, classes: Classes, device: torch.device | str = "cpu"):
        self.classes = classes
        self.counts = torch.zeros(len(classes.names), classes.outputs, dtype=torch.int64, device=device)

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
        label = label.to(self.counts.device, torch.int64)
        cell = label * self.classes.outputs + prediction.to(self.counts.device)
        # Ignored pixels go to a cell of their own before all others: picking out the rest would cost a
        # copy, and an id beyond the classes shows as one cell too many.
        cell = torch.where(label == self.classes.ignore_index, 0, cell + 1)
        counts = torch.bincount(cell.flatten(), minlength=self.counts.numel() + 1)
        if counts.numel() > self.counts.numel() + 1:
            raise BenchError(
                f"a label holds an id that is neither one of the {len(self.classes.names)} classes nor "
                f"{self.classes.ignore_index} (ignored); check the data set's labels"
            )
        self.counts += counts[1:].view_as(self.counts)

    def __iadd__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        """Adds another matrix's counts."""
        self.counts += other.counts.to(self.counts.device)
        return self

    def quality(self) -> Quality:
        """Reads the metrics off the counts."""
        counts = self.counts.cpu().double()
        scored = counts.shape[0]
        hits = counts.diagonal()
        labelled = counts.sum(dim=1)
        predicted = counts[:, :scored].sum(dim=0)
        # 0 / 0 is nan, which is what an absent class is worth.
        iou = hits / (labelled + predicted - hits)
        return Quality(
            miou=iou.nanmean().item(),
            iou=dict(zip(self.classes.names, iou.tolist(), strict=True)),
            pixel_accuracy=(hits.sum() / labelled.sum()).item(),
            class_accuracy=(hits / labelled).nanmean().item(),
            frequency_weighted_iou=((labelled * iou.nan_to_num()).sum() / labelled.sum()).item(),
            classes_present=int((~iou.isnan()).sum()),
        )
