"""DMCP's width search: one step of it, and the light search that is made of such steps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from bench.channels.groups import ChannelGroup
from bench.errors import BenchError
from bench.pruners.base import Calibration
from bench.pruners.dmcp.gated import Gates, Widths
from bench.pruners.dmcp.gates import budget_loss
from bench.system.console import progress
from bench.training.losses import segmentation_loss


class GateOptimizer:
    """Nesterov SGD on the logits of all groups, its rate falling along half a cosine, as published."""

    FIRST, LAST, MOMENTUM = 0.5, 0.1, 0.9

    def __init__(self, widths: Widths, budget: float, weight: float, steps: int):
        """Sets up the optimizer.

        Args:
            widths: what is learned.
            budget: MACs to aim at.
            weight: lambda, the weight of the budget's loss.
            steps: how many steps there will be.
        """
        self._widths, self._budget, self._weight, self._steps = widths, budget, weight, steps
        self._learned = [logits.requires_grad_() for logits in widths.learned()]
        self._sgd = torch.optim.SGD(self._learned, lr=self.FIRST, momentum=self.MOMENTUM, nesterov=True)
        self._step = 0

    def step(
        self, network: Callable[[Tensor], Any], gates: Gates, images: Tensor, labels: Tensor, ignore_index: int
    ) -> None:
        """Moves the logits down the cross-entropy of the gated network and towards the budget.

        Raises:
            BenchError: the loss is not finite.
        """
        with torch.enable_grad():
            gates.set(self._widths.gates())
            task = segmentation_loss(network(images), labels, ignore_index)
            macs = self._widths.macs(self._widths.logits)
            loss = task + self._weight * budget_loss(macs, self._budget).to(task)
            grads = torch.autograd.grad(loss, self._learned, allow_unused=True, materialize_grads=True)
        if not torch.isfinite(loss):
            raise BenchError(f"the loss of the width search is not finite in step {self._step + 1}; look at the images")
        for logits, grad in zip(self._learned, grads, strict=True):
            logits.grad = grad
        self._sgd.param_groups[0]["lr"] = cosine(self._step, self._steps, self.FIRST, self.LAST)
        self._sgd.step()
        self._step += 1


def cosine(step: int, steps: int, first: float, last: float) -> float:
    """The learning rate of a step, from 0: `first` at the start, falling towards `last` along half a cosine."""
    return last + (first - last) * (1 + math.cos(math.pi * step / steps)) / 2


def learn_widths(
    model: nn.Module,
    groups: Sequence[ChannelGroup],
    widths: Widths,
    calibration: Calibration,
    steps: int,
    weight: float,
) -> None:
    """Learns the logits in place; the network's weights and running statistics are frozen.

    Args:
        model: the network; left as it was.
        groups: the prunable groups.
        widths: what is learned.
        calibration: batches, used in turn, and the budget.
        steps: steps, one batch each.
        weight: weight of the budget's loss.
    """
    if not widths.learned():
        return
    network = copy.deepcopy(model).requires_grad_(False).eval()
    optimizer = GateOptimizer(widths, calibration.budget.macs, weight, steps)
    device = next(model.parameters()).device
    with Gates(network, groups) as gates:
        for step in progress(range(steps), "searching widths"):
            images, labels = calibration.batches[step % len(calibration.batches)]
            optimizer.step(network, gates, images.to(device), labels.to(device), calibration.ignore_index)
