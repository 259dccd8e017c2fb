"""PAPM: the norm of a channel's filter and the share of its activations that are not zero, weighed by alpha."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners.apoz.pruner import active_shares
from bench.pruners.base import Calibration, Pruner
from bench.pruners.filters import filter_norm, rated_filters
from bench.torch_utils.batches import Batch
from bench.torch_utils.dry_run import blank_image

NORM_SCALES = ("max", "raw", "minmax")


def scaled_norm(norms: Tensor, scale: str) -> Tensor:
    """The norms of one layer's filters on a scale: [C] -> float64 [C].

    Args:
        norms: non-negative.
        scale: `max` divides by the largest, `minmax` also moves the smallest to 0, `raw` leaves them. Where that is
            a division by zero the result is 0.
    """
    norms = norms.double()
    if scale == "raw":
        return norms
    low = norms.min() if scale == "minmax" else 0.0
    return (norms - low) / (norms.max() - low).clamp_min(torch.finfo(torch.float64).tiny)


def papm_importance(norms: Sequence[Tensor], active: Tensor, alpha: float, scale: str) -> Tensor:
    """alpha * ||W_c||_2 + (1 - alpha) * (1 - APoZ_c).

    Args:
        norms: [C] for each layer that makes the channels; scaled one by one, then their mean counts.
        active: [C], 1 - APoZ.
        alpha: weight of the norm, in [0, 1].
        scale: of the norms, see `scaled_norm`.

    Returns:
        float64 [C]
    """
    norm = torch.stack([scaled_norm(member, scale) for member in norms]).mean(dim=0)
    return alpha * norm + (1 - alpha) * active


def pixels_of(batches: Sequence[Batch], classes: Sequence[int]) -> list[tuple[Tensor, Tensor]]:
    """The images that show any of some classes, and where: float32 [N, 3, H, W] and bool [N, H, W] a batch.

    Raises:
        BenchError: no image shows any.
    """
    chosen = []
    for images, labels in batches:
        where = torch.isin(labels, torch.tensor(classes, device=labels.device))
        shown = where.flatten(1).any(dim=1)
        if shown.any():
            chosen.append((images[shown], where[shown]))
    if not chosen:
        raise BenchError(
            f"none of the {sum(len(images) for images, _ in batches)} calibration images shows a class of "
            f"{', '.join(map(str, classes))}; raise `calib_images` or choose other classes"
        )
    return chosen


@dataclass(frozen=True)
class PAPM(Pruner):
    """Norm and activity; with `classes` only activations at pixels of these classes count."""

    alpha: float = option(0.5, "weight of the norm, in [0, 1]: 1 ranks as l2 does within a layer, 0 is apoz")
    norm_scale: str = option(
        "max",
        "the norm over the layer's largest (max), from 0 for its smallest to 1 for that (minmax), or as it is (raw)",
    )
    classes: tuple[int, ...] = option((), "count activations at pixels of these class ids alone; none: at all pixels")

    name: ClassVar[str] = "papm"
    paper: ClassVar[str] = "none known; norm of the filter and APoZ (Hu et al., 2016), weighed"
    scope: ClassVar[str] = "global"
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise UsageError(f"option alpha of papm must be in [0, 1], not {self.alpha:g}")
        if self.norm_scale not in NORM_SCALES:
            raise UsageError(f"option norm_scale of papm must be {', '.join(NORM_SCALES)}, not '{self.norm_scale}'")

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        batches = [(images, None) for images, _ in calibration.batches]
        if self.classes:
            self._check_classes(model, calibration.ignore_index)
            batches = pixels_of(calibration.batches, self.classes)
        active = active_shares(model, groups, batches)
        return {
            group.name: papm_importance(
                rated_filters(model, group, lambda filters: filter_norm(filters, 2)),
                active[group.name],
                self.alpha,
                self.norm_scale,
            )
            for group in groups
        }

    def _check_classes(self, model: nn.Module, ignore_index: int) -> None:
        """Raises UsageError for a class that the network does not tell apart."""
        outputs = model(blank_image(model)).shape[1]
        known = [number for number in range(outputs) if number != ignore_index]
        for number in self.classes:
            if number not in known:
                raise UsageError(
                    f"option classes of papm names {number}, which is no class; they are {known[0]} to {known[-1]}"
                )
