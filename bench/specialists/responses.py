"""What a network says to the pixels of each class, averaged over the training images as they stream by."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.errors import BenchError
from bench.system.console import progress
from bench.torch_utils.batches import Batch
from bench.torch_utils.contexts import flags_kept


@dataclass(frozen=True)
class ClassResponses:
    """Sums over pixels.

    Attributes:
        sums: float64 [K, D], of the responses to the pixels of each class.
        squares: float64 [D], of the squared responses to all pixels that have a class.
        pixels: int64 [K], pixels of each class, at the resolution of the responses.
    """

    sums: Tensor
    squares: Tensor
    pixels: Tensor

    @property
    def present(self) -> list[int]:
        """The classes that some pixel has."""
        return self.pixels.nonzero().flatten().tolist()

    @property
    def means(self) -> Tensor:
        """Mean response of each class that is present, float64 [P, D]."""
        return self.sums[self.present] / self.pixels[self.present, None]

    @property
    def spread(self) -> Tensor:
        """Standard deviation of each feature over all pixels that have a class, float64 [D]."""
        count = self.pixels.sum()
        mean = self.sums.sum(dim=0) / count
        return (self.squares / count - mean**2).clamp_min(0).sqrt()


def class_responses(network: nn.Module, batches: Iterable[Batch], classes: int, device: torch.device) -> ClassResponses:
    """Sums up the responses to the pixels of each class, batch by batch.

    Args:
        network: maps images [N, 3, H, W] to responses [N, D, h, w]; its training flags are left as they were.
        batches: images and labels [N, H', W'], of any size; the label of a response is the nearest one.
        classes: K; labels beyond are no class.
        device: where the network is.

    Raises:
        BenchError: the responses are not finite.
    """
    sums, squares, pixels = None, None, torch.zeros(classes, dtype=torch.int64)
    with flags_kept(network), torch.inference_mode():
        network.eval()
        for images, labels in progress(batches, "responses to each class"):
            found = network(images.to(device)).double().cpu()
            if not found.isfinite().all():
                raise BenchError("the network's responses are nan or inf; its weights are not usable")
            # float32 holds every id exactly.
            nearest = (
                F.interpolate(labels[:, None].float(), size=found.shape[-2:], mode="nearest-exact").long().flatten()
            )
            has_class = nearest < classes
            rows, nearest = found.movedim(1, -1).flatten(0, 2)[has_class], nearest[has_class]
            if sums is None:
                sums, squares = (found.new_zeros(shape) for shape in ((classes, rows.shape[1]), rows.shape[1]))
            sums.index_add_(0, nearest, rows)
            squares += (rows**2).sum(dim=0)
            pixels += nearest.bincount(minlength=classes)
    return ClassResponses(sums, squares, pixels)
