"""FGP: a channel's importance is how much its features support the classes that are predicted, by their gradients.

Lv et al., FGP: Feature-Gradient-Prune for Efficient Convolutional Layer Pruning, 2024,
https://arxiv.org/abs/2411.12781. The target of the gradients is Seg-Grad-CAM's (Vinogradova et al., AAAI 2020).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from bench.channels.groups import ChannelGroup, Member, Producer
from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.torch_utils.batches import Batch
from bench.torch_utils.dry_run import folded_layers
from bench.torch_utils.hooks import channels_first, outputs_seen

CHOICES = {"hook": ("conv", "norm"), "target": ("pred", "gt"), "selection": ("mass", "ratio")}


def signed_means(features: Tensor) -> tuple[Tensor, Tensor]:
    """Mean over positions of the positive and of the negative part: [N, C, ...] -> two non-negative [N, C]."""
    flat = features.flatten(2)
    return flat.clamp_min(0).mean(dim=2), -flat.clamp_max(0).mean(dim=2)


def class_support(gradient: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
    """Mean over positions of ReLU(alpha * A), alpha being the mean over positions of the gradient.

    ReLU(alpha * A) is |alpha| times the part of A that has alpha's sign, so the features are needed only through the
    means of their two parts, once for all classes.

    Args:
        gradient: [N, C, ...], of one class's logits with respect to the features A.
        positive: [N, C], mean of A's positive part.
        negative: [N, C], mean of the negative part's absolute value.

    Returns:
        [N, C], non-negative.
    """
    alpha = gradient.flatten(2).mean(dim=2)
    return alpha.clamp_min(0) * positive + (-alpha).clamp_min(0) * negative


def shares(values: Tensor) -> Tensor:
    """Non-negative values as shares of their sum over the last axis; zeros where all are zero."""
    return values / values.sum(dim=-1, keepdim=True).clamp_min(torch.finfo(values.dtype).tiny)


class ClassMeans:
    """Mean of a layer's rows over the images that hold a class, and then over the classes.

    A class that few images hold counts as much as one that all do: summed over the pairs of an image and a class,
    the frequent ones would outvote it.
    """

    def __init__(self) -> None:
        self._sums: dict[int, Tensor] = {}
        self._counts: dict[int, int] = {}

    def add(self, label: int, rows: Tensor) -> None:
        """Adds some images that hold a class.

        Args:
            label: the class.
            rows: float64 [images, C].
        """
        total = rows.sum(dim=0)
        self._sums[label] = self._sums[label] + total if label in self._sums else total
        self._counts[label] = self._counts.get(label, 0) + len(rows)

    def mean(self) -> Tensor:
        """float64 [C]; a class no row was added of is left out, not counted as zero."""
        means = [total / max(1, self._counts[label]) for label, total in self._sums.items()]
        return torch.stack(means).sum(dim=0) / max(1, sum(map(bool, self._counts.values())))


def mass_score(support: Tensor) -> Tensor:
    """Share of the support that lies in a channel and those ranked behind it.

    The paper keeps the shortest prefix of the channels, by descending support, whose share reaches T: those before
    which less than T lies, whose score here is above 1 - T. One threshold on these scores is thus the same T in every
    group, and a search for the threshold is a search for T.

    Args:
        support: [C], non-negative.

    Returns:
        float64 [C]; 1 for the channel ranked first.
    """
    ascending = support.argsort(stable=True)
    tail = shares(support.double())[ascending].cumsum(0)
    return torch.empty_like(tail).index_copy_(0, ascending, tail)


@dataclass(frozen=True)
class Fgp(Pruner):
    """Support by gradient-weighted features; by default the same mass of it is kept in every group."""

    hook: str = option(
        "conv", "where features are taken: the convolution's output (conv), or that of the norm behind it (norm)"
    )
    target: str = option("pred", "the pixels of a class: as predicted (pred) or as labelled (gt)")
    selection: str = option(
        "mass", "keep the same share of the support in every layer (mass), or of the channels by it (ratio)"
    )
    row_normalise: bool = option(True, "whether each image and class sums to 1 before averaging")
    min_pixels: int = option(1, "an image has a class from so many pixels on")

    name: ClassVar[str] = "fgp"
    paper: ClassVar[str] = "Lv et al., FGP: Feature-Gradient-Prune for Efficient Convolutional Layer Pruning, 2024"
    needs_data: ClassVar[bool] = True
    # The first summed over pairs of an image and a class.
    revision: ClassVar[int] = 2

    def __post_init__(self) -> None:
        for name, choices in CHOICES.items():
            value = getattr(self, name)
            if value not in choices:
                raise UsageError(f"option {name} of fgp must be {' or '.join(choices)}, not '{value}'")
        if self.min_pixels < 1:
            raise UsageError(f"option min_pixels of fgp must be at least 1, not {self.min_pixels}")

    @property
    def scope(self) -> str:
        """Global for masses: ranking them over the network finds the mass T that is kept in every group."""
        return "global" if self.selection == "mass" else "local"

    @property
    def comparable(self) -> bool:
        """Masses are shares of what a group supports, the same for all; ratios only rank."""
        return self.selection == "mass"

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        hooked = {group.name: [self._hooked(producer) for producer in group.producers] for group in groups}
        support = self._support(model, {member.layer for members in hooked.values() for member in members}, calibration)
        scores: Scores = {}
        for group in groups:
            ran = [member for member in hooked[group.name] if member.layer in support]
            if ran:
                parts = [member.gather(shares(support[member.layer]), group.channels) for member in ran]
                merged = torch.stack(parts).sum(dim=0)
                scores[group.name] = mass_score(merged) if self.selection == "mass" else merged
        return scores

    def _hooked(self, producer: Producer) -> Member:
        return producer.norm if self.hook == "norm" and producer.norm is not None else producer.layer

    def _support(self, model: nn.Module, names: set[str], calibration: Calibration) -> dict[str, Tensor]:
        """Layer -> float64 [width], mean over each class's images and then over the classes; layers that ran only."""
        support: dict[str, ClassMeans] = defaultdict(ClassMeans)
        folded = folded_layers(model, names)
        for images, labels in _pieces(calibration.batches, 1 if folded else None):
            for label, rows in self._rows(model, names, folded, images, labels, calibration.ignore_index):
                for name, values in rows.items():
                    # A layer that gives a class nothing in an image has no shares there.
                    support[name].add(label, shares(values[values.any(dim=1)]) if self.row_normalise else values)
        if not support:
            raise BenchError(
                f"no calibration image has a class of at least {self.min_pixels} pixels; "
                "see more images or lower min_pixels"
            )
        return {name: means.mean() for name, means in support.items()}

    def _rows(
        self, model: nn.Module, names: set[str], folded: set[str], images: Tensor, labels: Tensor, ignore_index: int
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """Each class of a batch, and layer -> float64 [images it is in, width], what each channel gives to it.

        Where there are `folded` layers the batch is one image, of which all of their rows are.
        """
        layers = dict(model.named_modules())

        def maps(name: str, values: Tensor) -> Tensor:
            """[N, C, ...]"""
            found = channels_first(layers[name], values)
            return found.movedim(0, -1)[None] if name in folded else found

        device = next(model.parameters()).device
        runs: list[tuple[str, GradientEdge, tuple[Tensor, Tensor]]] = []

        def note(name: str, output: Tensor) -> None:
            # Now, because what stands behind may change the output in place; the edge stays what it is.
            runs.append((name, get_gradient_edge(output), signed_means(maps(name, output.detach()))))

        with torch.enable_grad(), outputs_seen(model, names, note):
            logits = model(images.to(device))
        if not torch.isfinite(logits).all():
            raise BenchError("the output for the calibration images is not finite; the checkpoint is not usable")
        regions = logits.argmax(dim=1) if self.target == "pred" else labels.to(device)
        for label in range(logits.shape[1]):
            region = regions == label
            is_in = region.flatten(1).sum(dim=1) >= self.min_pixels
            if not is_in.any() or (self.target == "gt" and label == ignore_index):
                continue
            with torch.enable_grad():
                target = (logits[:, label] * region).sum()
            # In evaluation mode the images of a batch are not coupled: each gets the gradient of its own part.
            edges = [edge for _, edge, _ in runs]
            gradients = torch.autograd.grad(target, edges, retain_graph=True, allow_unused=True)
            rows: dict[str, Tensor] = {}
            for (name, _, means), gradient in zip(runs, gradients, strict=True):
                if gradient is not None:
                    row = class_support(maps(name, gradient), *means)[is_in].double()
                    rows[name] = rows[name] + row if name in rows else row
            yield label, rows


def _pieces(batches: Iterable[Batch], size: int | None) -> Iterator[Batch]:
    """Batches of at most that many images."""
    for images, labels in batches:
        yield from zip(images.split(size or len(images)), labels.split(size or len(images)), strict=True)
