"""Structured optimal brain surgeon: a channel matters by what its readers lose although they are repaired.

Hassibi and Stork, Second order derivatives for network pruning: Optimal Brain Surgeon, NIPS 1992; whole columns: Kurtic
et al., ZipLM, NeurIPS 2023; summed over coupled layers: Wang et al., OBSPA, 2023.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Member
from bench.channels.layer_axes import IN, WEIGHTED, axes_of
from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.pruners.obs.input_moments import InputMoments, input_moments
from bench.pruners.obs.selection import Reader, removal_losses


@dataclass(frozen=True)
class OBS(Pruner):
    """The share of their variance that the outputs of a channel's readers lose without it, once they are repaired."""

    ridge: float = option(1e-3, "what is added to the covariance's diagonal, as a share of its mean; above 0")
    positions: int = option(4096, "positions of each tensor that are looked at in a batch of calibration images")

    name: ClassVar[str] = "obs"
    paper: ClassVar[str] = "Hassibi and Stork, Optimal Brain Surgeon, NIPS 1992; structured: ZipLM and OBSPA, 2023"
    scope: ClassVar[str] = "global"
    comparable: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.ridge > 0:
            raise UsageError(f"option ridge of obs must be above 0, not {self.ridge:g}")
        if self.positions < 1:
            raise UsageError(f"option positions of obs must be at least 1, not {self.positions}")

    @torch.no_grad()
    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        layers = dict(model.named_modules())
        names = {member.layer for group in groups for member in _readers(layers, group)}
        ordered = [name for name in layers if name in names]
        tensors = [
            _Tensor(moments, layers, self.ridge)
            for moments in input_moments(model, ordered, calibration.batches, self.positions, calibration.seed)
        ]
        of_layer = {name: tensor for tensor in tensors for name in tensor.products}
        scores = {}
        for group in groups:
            if readers := _of_group(_readers(layers, group), of_layer, group.channels):
                scores[group.name] = removal_losses(readers, group.channels)
        return scores


class _Tensor:
    """A tensor that layers read: the inverse of its covariance, and the layers' weights over their outputs' variance.

    Attributes:
        inverse: float64 [I, I].
        products: layer -> W^T W, float64 [I, I]; summed over places of the kernel, and over the variance of the output.
    """

    def __init__(self, moments: InputMoments, layers: Mapping[str, nn.Module], ridge: float):
        covariance = moments.covariance
        if not covariance.isfinite().all():
            raise BenchError(f"what {moments.layers[0]} reads is not finite; the checkpoint is not usable")
        scale = covariance.diagonal().mean().clamp(min=torch.finfo(covariance.dtype).tiny)
        damped = covariance + ridge * scale * torch.eye(len(covariance)).to(covariance)
        self.inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        self.products = {}
        for name in moments.layers:
            products = input_products(layers[name])
            variance = (products * covariance).sum().clamp(min=torch.finfo(covariance.dtype).tiny)
            self.products[name] = products / variance


def input_products(layer: nn.Module) -> Tensor:
    """W^T W of a convolution or linear layer, summed over outputs and places of the kernel: float64 [in, in]."""
    columns = layer.weight.detach().double().movedim(axes_of(layer)["weight"].index(IN), 0).flatten(1)
    return columns @ columns.T


def _readers(layers: Mapping[str, nn.Module], group: ChannelGroup) -> list[Member]:
    return [member for member in group.consumers if isinstance(layers[member.layer], WEIGHTED)]


def _of_group(members: Iterable[Member], of_layer: Mapping[str, _Tensor], count: int) -> list[Reader]:
    """The readers of a group's channels; those of the same places of the same tensor as one."""
    sharing: dict[tuple[int, tuple[int, ...]], list[Member]] = defaultdict(list)
    for member in members:
        if member.layer in of_layer:
            sharing[id(of_layer[member.layer]), tuple(member.positions.tolist())].append(member)
    readers = []
    for first, *others in sharing.values():
        tensor = of_layer[first.layer]
        products = sum((tensor.products[member.layer] for member in others), tensor.products[first.layer])
        readers.append(Reader(tensor.inverse, products, first.positions, first.channels, count))
    return readers
