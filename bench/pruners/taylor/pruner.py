"""Taylor importance: the squared first-order change of the loss when a channel's gate closes.

Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019,
https://arxiv.org/abs/1906.10771
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup, Producer
from bench.channels.layer_axes import out_filters
from bench.config.declare import option
from bench.errors import BenchError, UsageError
from bench.plan.pruning_plan import Scores
from bench.pruners.base import Calibration, Pruner
from bench.training.losses import segmentation_loss

TERMS = ("gate", "gamma")


def taylor_importance(effects: Tensor) -> Tensor:
    """Mean over batches of the squared first-order effect: [batches, C] -> [C].

    The effect of a batch is summed over all its pixels and over all layers that make the channel before it
    is squared, because removing the channel removes all of it at once.
    """
    return effects.square().mean(dim=0)


@dataclass(frozen=True)
class Taylor(Pruner):
    """Gate form of the paper's best criterion (Taylor-FO-BN); `term=gamma` leaves the shift's gradient out."""

    term: str = option("gate", "gate, or gamma, which leaves the shift's part (beta, or the bias) out")

    name: ClassVar[str] = "taylor"
    paper: ClassVar[str] = "Molchanov et al., Importance Estimation for Neural Network Pruning, CVPR 2019"
    scope: ClassVar[str] = "global"
    comparable: ClassVar[bool] = True
    needs_data: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if self.term not in TERMS:
            raise UsageError(f"option term of taylor must be {' or '.join(TERMS)}, not '{self.term}'")

    def score(self, model: nn.Module, groups: Sequence[ChannelGroup], calibration: Calibration) -> Scores:
        layers = dict(model.named_modules())
        wanted = _parameters(layers, groups)
        device = next(model.parameters()).device
        effects: dict[str, list[Tensor]] = {group.name: [] for group in groups}
        for images, labels in calibration.batches:
            with torch.enable_grad():
                loss = segmentation_loss(model(images.to(device)), labels.to(device), calibration.ignore_index)
                # A layer the loss does not depend on gets a gradient of zeros.
                grads = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
            if not torch.isfinite(loss):
                raise BenchError("the loss on the calibration images is not finite; the checkpoint is not usable")
            products = {
                id(parameter): (parameter.detach() * grad).double()
                for parameter, grad in zip(wanted, grads, strict=True)
            }
            for group in groups:
                effects[group.name].append(
                    sum(self._effect(layers, producer, products, group.channels) for producer in group.producers)
                )
        return {name: taylor_importance(torch.stack(values)) for name, values in effects.items()}

    def _effect(
        self, layers: dict[str, nn.Module], producer: Producer, products: dict[int, Tensor], channels: int
    ) -> Tensor:
        """gate * dL/dgate of the channels a producer makes, the gate being 1: [channels].

        Behind a normalisation it is gamma * dL/dgamma + beta * dL/dbeta exactly; a producer without one is
        linear in its filter, so the same holds with the filter and its bias.
        """
        if _is_affine(layers, producer):
            member = producer.norm
            layer = layers[member.layer]
            effect = products[id(layer.weight)]
        else:
            member = producer.layer
            layer = layers[member.layer]
            effect = out_filters(layer, products[id(layer.weight)]).sum(dim=1)
        if self.term == "gate" and layer.bias is not None:
            effect = effect + products[id(layer.bias)]
        return member.gather(effect, channels)


def _is_affine(layers: dict[str, nn.Module], producer: Producer) -> bool:
    return producer.norm is not None and layers[producer.norm.layer].weight is not None


def _parameters(layers: dict[str, nn.Module], groups: Sequence[ChannelGroup]) -> list[Tensor]:
    """The parameters whose gradients the effects need, each once."""
    found: dict[int, Tensor] = {}
    for group in groups:
        for producer in group.producers:
            layer = layers[producer.norm.layer if _is_affine(layers, producer) else producer.layer.layer]
            for parameter in (layer.weight, layer.bias):
                if parameter is not None:
                    found[id(parameter)] = parameter
    return list(found.values())
