"""Repairing one layer: the weights that bring its outputs closest to those of the network before the cut.

A repair has to prove itself: it is fitted to some of the images and kept only where it leaves less error on the
others. What proved best is then fitted to all of them.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from bench.recover.least_squares import Moments, constant, moments, ridge, squared_error
from bench.recover.options import RepairOptions
from bench.recover.patches import Places, filters, outputs_at, patches_at, set_filters

SHARES = (1e-3, 1e-5, 1e-8)
"""Ridges to choose from, as shares of the mean variance of the inputs; more than the first was of no use."""

# Share of the images (of the positions, where there are fewer) that a repair proves itself on.
_HELD = 4

# Held-out error is to shrink by this share at least; chance alone brings less.
_MARGIN = 0.01

# A layer whose outputs are off by less than this share of their variance has nothing to mend: that is rounding.
_SAME = 1e-10

# A norm that multiplies by less than this takes an output away.
_NO_GAIN = 1e-4

# Outputs of a layer by which a ridge is chosen; all of them are solved for.
_MOST_TRIED = 256

# Numbers that a piece of the samples may hold.
_PIECE = 1 << 24


_Choice = tuple[float, str, float | None]
"""Held-out error, outcome, ridge."""


@dataclass(frozen=True, eq=False)
class Task:
    """A layer to repair.

    Attributes:
        name: of the layer.
        layer: in the cut network.
        norm: the BatchNorm right behind it, in the cut network, if there is one.
        kept_out: which outputs of the layer before the cut it still has; None for all.
        kept_in: the same of its inputs.
        dense: its weights before the cut, as `filters` gives them.
    """

    name: str
    layer: nn.Module
    norm: nn.Module | None
    kept_out: Tensor | None
    kept_in: Tensor | None
    dense: Tensor

    @property
    def takes_constant(self) -> bool:
        """Whether a constant can be added to what the layer gives."""
        return self.layer.bias is not None or getattr(self.norm, "running_mean", None) is not None

    def gain(self) -> Tensor:
        """What the norm behind multiplies each output by; 1 where there is none. float64 [outputs]"""
        norm = self.norm
        if norm is None or norm.running_var is None:
            return torch.ones(filters(self.layer).shape[:2].numel(), device=self.layer.weight.device).double()
        scale = torch.ones_like(norm.running_var) if norm.weight is None else norm.weight.detach()
        return scale.double() / (norm.running_var.double() + norm.eps).sqrt()

    def before_norm(self, values: Tensor) -> Tensor:
        """What the layer must give more for the norm behind it to give some values [n, outputs] more."""
        gain = self.gain()
        # An output that the norm takes away can make up for nothing.
        return values * torch.where(gain.abs() > _NO_GAIN, 1 / gain, torch.zeros_like(gain)).to(values.dtype)

    def stays(self, outputs: Tensor) -> Tensor:
        """The columns of the layer's outputs before the cut, [n, outputs], that stay."""
        return outputs if self.kept_out is None else outputs[:, self.kept_out.to(outputs.device)]

    def is_shared(self, limit: int, positions: int) -> bool:
        """Whether one matrix over the channels mends the kernel: all of its weights are too many for that limit, or
        for the positions there are."""
        layer, unknowns = self.layer, filters(self.layer).shape[-1]
        taps = math.prod(getattr(layer, "kernel_size", ()))
        return taps > 1 and layer.groups == len(self.dense) == 1 and unknowns > min(limit, positions)


@dataclass(frozen=True, eq=False)
class Sample:
    """What the network before the cut gives at some positions of a layer.

    Attributes:
        images: number of images.
        size: (height, width) of the layer's output, one number of one axis; empty for a linear layer.
        places: positions of the output.
        targets: float [n, outputs that stay].
        weights: float [n], how much each position counts.
        input_places: positions of the input, where the channels are mended by one matrix.
        inputs: float [m, inputs before the cut], the input there.
        input_weights: as `weights`, of these.
    """

    images: int
    size: tuple[int, ...]
    places: Places
    targets: Tensor
    weights: Tensor
    input_places: Places | None = None
    inputs: Tensor | None = None
    input_weights: Tensor | None = None


@dataclass(frozen=True)
class LayerRepair:
    """What came of the repair of a layer.

    Attributes:
        outcome: `repaired`; `constant`: only a constant was added; `sliced`: left as the cut left it; `unchanged`: the
            cut has changed nothing for it.
        form: `full`: all weights were solved for; `shared`: one matrix over the channels; `none`: too few positions.
        positions: how many positions were looked at.
        unknowns: how large the system was.
        ridge: lambda as a share of the mean variance of the inputs; None where the weights were kept.
        explained_sliced: share of the variance of the outputs that the sliced weights explain on held-out images.
        explained_repaired: the same of what was chosen.
    """

    outcome: str
    form: str
    positions: int
    unknowns: int
    ridge: float | None = None
    explained_sliced: float | None = None
    explained_repaired: float | None = None


def repair_layer(task: Task, sample: Sample, inputs: Tensor, options: RepairOptions) -> LayerRepair:
    """Repairs a layer in place, for what it is about to read.

    Args:
        task: the layer.
        sample: what it is to give.
        inputs: what it reads in the cut network, whose earlier layers are repaired; of all images.
        options: the ridge, and when one matrix over the channels must do.
    """
    layer, device = task.layer, inputs.device
    bias = 0 if layer.bias is None else layer.bias.detach()
    sample = replace(
        sample,
        places=sample.places.to(device),
        targets=(sample.targets.to(device) - bias).double(),
        weights=sample.weights.to(device).double(),
    )
    held = held_out(sample.places.image, sample.images)
    shares = SHARES if options.repair_lambda is None else (options.repair_lambda,)
    if min(held.sum(), (~held).sum()) < 2:
        return LayerRepair("sliced", "none", len(sample.places), filters(layer).shape[-1])
    form = (_Full if sample.inputs is None else _Shared)(task, sample, inputs, held)
    gains = task.gain().square().reshape(filters(layer).shape[:2])

    def error(weights: Tensor, added: Tensor | None) -> float:
        return float((form.held_error(weights, added) * gains).sum())

    before = filters(layer).double()
    variance = float((_variance(sample.targets[held], sample.weights[held]).reshape(gains.shape) * gains).sum())
    found = {"form": form.name, "positions": len(sample.places), "unknowns": form.unknowns}
    as_sliced = error(before, None)
    if as_sliced <= _SAME * variance:
        return LayerRepair("unchanged", **found)
    if variance == 0:
        return LayerRepair("sliced", **found)

    choices: list[_Choice] = [(as_sliced, "sliced", None)]
    if task.takes_constant:
        choices.append((error(before, form.constant(before, ~held)), "constant", None))
    weights, share = form.fitted(form.best_share(shares, gains), ~held)
    added = form.constant(weights, ~held) if task.takes_constant else None
    choices.append((error(weights, added), "repaired", share))
    # The simpler stays unless another leaves clearly less.
    least = min(left for left, *_ in choices)
    left, outcome, share = next(choice for choice in choices if choice[0] * (1 - _MARGIN) <= least)
    found |= {"explained_sliced": 1 - as_sliced / variance, "explained_repaired": 1 - left / variance}
    everything, weights = torch.ones_like(held), before
    if outcome == "repaired":
        weights, share = form.fitted(share, everything)
        set_filters(layer, weights.to(layer.weight.dtype))
        weights = filters(layer).double()
    if outcome != "sliced" and task.takes_constant:
        _add_constant(task, form.constant(weights, everything).flatten())
    return LayerRepair(outcome, ridge=share, **found)


def _variance(targets: Tensor, weights: Tensor) -> Tensor:
    """Sum of the squares of targets [n, outputs] less their mean, each times its weight: [outputs]."""
    weights = weights[:, None]
    mean = (weights * targets).sum(0) / weights.sum()
    return (weights * (targets - mean).square()).sum(0)


def held_out(image: Tensor, images: int) -> Tensor:
    """Which positions a repair proves itself on: those of the last quarter of the images; of few images every fourth.

    Args:
        image: int64 [n], the image of each position, ascending.
        images: number of images.
    """
    if images >= _HELD:
        return image >= images - images // _HELD
    return torch.arange(len(image), device=image.device) % _HELD == _HELD - 1


def _add_constant(task: Task, added: Tensor) -> None:
    """Adds a constant to what a layer gives, or takes it from what the norm behind subtracts."""
    if task.layer.bias is not None:
        task.layer.bias.detach().add_(added.to(task.layer.bias.dtype))
    else:
        task.norm.running_mean.sub_(added.to(task.norm.running_mean.dtype))


class _Full:
    """All weights of the filters are solved for."""

    name = "full"

    def __init__(self, task: Task, sample: Sample, inputs: Tensor, held: Tensor):
        self._before, self._centred = filters(task.layer).double(), task.takes_constant
        self.unknowns = self._before.shape[-1]
        groups = self._before.shape[0]

        def sums(chosen: Tensor) -> Moments:
            parts = []
            for rows in _pieces(chosen, groups * self.unknowns):
                read = patches_at(task.layer, inputs, sample.size, sample.places.part(rows))
                parts.append(moments(read, _by_group(sample.targets[rows], groups), sample.weights[rows]))
            return _sum(parts)

        self._held = held
        self._fit, self._proof = sums(~held), sums(held)
        self._all = self._fit + self._proof

    def _of(self, chosen: Tensor) -> Moments:
        return self._all if chosen.all() else self._fit

    def held_error(self, weights: Tensor, added: Tensor | None) -> Tensor:
        return squared_error(self._proof, weights, added)

    def constant(self, weights: Tensor, chosen: Tensor) -> Tensor:
        return constant(self._of(chosen), weights)

    def best_share(self, shares: Sequence[float], gains: Tensor) -> float:
        """The one that serves held-out images best, by some of the outputs where there are many."""
        some = slice(None, None, -(-gains.shape[1] // _MOST_TRIED))
        fit, proof = (replace(found, y=found.y[:, some], yx=found.yx[:, some], yy=found.yy[:, some])
                      for found in (self._fit, self._proof))  # fmt: skip
        return _best(shares, fit, proof, self._before[:, some], gains[:, some], centred=self._centred)

    def fitted(self, share: float, chosen: Tensor) -> tuple[Tensor, float]:
        found = self._of(chosen)
        return ridge(found.centred() if self._centred else found, self._before, share)


def _best(
    shares: Sequence[float], fit: Moments, proof: Moments, before: Tensor, weight: Tensor, *, centred: bool
) -> float:
    """The ridge whose solution of one part of the samples leaves least of the other, outputs weighted."""
    if len(shares) == 1:
        return shares[0]
    found, system = {}, fit.centred() if centred else fit
    for share in shares:
        weights, taken = ridge(system, before, share)
        error = squared_error(proof, weights, constant(fit, weights) if centred else None)
        found[taken] = float((error * weight).sum())
    return min(found, key=found.get)


def _pieces(chosen: Tensor, numbers: int) -> Iterator[Tensor]:
    """The chosen rows, so many at a time that they hold no more numbers than a piece may."""
    return iter(chosen.nonzero().flatten().split(max(1, _PIECE // numbers)))


def _by_group(targets: Tensor, groups: int) -> Tensor:
    """[n, g * O] -> [g, n, O]"""
    return targets.reshape(len(targets), groups, -1).transpose(0, 1)


def _sum(parts: list[Moments]) -> Moments:
    total = parts[0]
    for part in parts[1:]:
        total = total + part
    return total


class _Shared:
    """One matrix over the channels, `x_before = B x + constant`, is solved for, and the filters are read through it."""

    name = "shared"

    def __init__(self, task: Task, sample: Sample, inputs: Tensor, held: Tensor):
        self._targets, self._held, self._centred = sample.targets.float(), held, task.takes_constant
        self._weights = sample.weights[:, None]
        self._outputs, self._taps = len(sample.targets[0]), math.prod(task.layer.kernel_size)
        self._patches = patches_at(task.layer, inputs, sample.size, sample.places)[0].float()
        self._dense = task.stays(task.dense[0].T).T.reshape(self._outputs, -1, self._taps)
        at = sample.input_places.to(inputs.device)
        read, wanted = outputs_at(task.layer, inputs, at)[None], sample.inputs.to(inputs.device)[None]
        is_held, weights = held_out(at.image, sample.images), sample.input_weights.to(inputs.device)
        self._fit, self._proof = (
            moments(read[:, part], wanted[:, part], weights[part]) for part in (~is_held, is_held)
        )
        self.unknowns = read.shape[-1]
        self._sliced = torch.eye(wanted.shape[-1], device=inputs.device)
        if task.kept_in is not None:
            self._sliced = self._sliced[:, task.kept_in.to(inputs.device)]

    def held_error(self, weights: Tensor, added: Tensor | None) -> Tensor:
        left = self._left(weights, self._held)
        left = left if added is None else left - added[0]
        return (self._weights[self._held] * left.square()).sum(0)[None]

    def constant(self, weights: Tensor, chosen: Tensor) -> Tensor:
        often = self._weights[chosen]
        return ((often * self._left(weights, chosen)).sum(0) / often.sum())[None]

    def best_share(self, shares: Sequence[float], gains: Tensor) -> float:
        """The one that gives back the held-out inputs best, each as much as the filters weigh it."""
        weight = torch.einsum("oct,o->c", self._dense.double().square(), gains[0])[None]
        return _best(shares, self._fit, self._proof, self._sliced[None], weight, centred=self._centred)

    def fitted(self, share: float, chosen: Tensor) -> tuple[Tensor, float]:
        found = self._fit + self._proof if chosen.all() else self._fit
        matrix, share = ridge(found.centred() if self._centred else found, self._sliced[None], share)
        through = torch.einsum("oct,ck->okt", self._dense, matrix[0].to(self._dense.dtype))
        return through.reshape(1, self._outputs, -1).double(), share

    def _left(self, weights: Tensor, chosen: Tensor) -> Tensor:
        """What the weights leave of the targets."""
        return (self._targets[chosen] - self._patches[chosen] @ weights[0].float().T).double()
