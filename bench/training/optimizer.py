"""The optimizer, the learning rate of each step, and the moving average of the weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from bench.channels.layer_axes import NORMS
from bench.config.declare import require
from bench.models.backbone import in_backbone
from bench.training.options import TrainOptions

_FACTOR = "rate_factor"
"""Where a group of parameters has its rate over that of the schedule."""


def build_optimizer(model: nn.Module, options: TrainOptions) -> torch.optim.Optimizer:
    """SGD with momentum or AdamW over all trainable parameters.

    Weight decay acts on every parameter, norms and biases too, as in torchvision's segmentation reference.

    Raises:
        UsageError: the backbone is to learn otherwise than the rest, and the network has none.
    """
    require(
        (options.backbone_lr_factor == 1 and not options.freeze_backbone_epochs)
        or any(in_backbone(model, name) for name, _ in model.named_parameters()),
        f"{type(model).__name__} does not say which of its layers are a backbone; leave out `backbone_lr_factor` and "
        "`freeze_backbone_epochs`",
    )
    learning = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters: list[Any] = list(learning.values())
    if options.backbone_lr_factor != 1:
        backbone = [parameter for name, parameter in learning.items() if in_backbone(model, name)]
        rest = [parameter for name, parameter in learning.items() if not in_backbone(model, name)]
        parameters = [{"params": rest}, {"params": backbone, _FACTOR: options.backbone_lr_factor}]
    if options.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=options.lr, weight_decay=options.weight_decay)
    return torch.optim.SGD(parameters, lr=options.lr, momentum=options.momentum, weight_decay=options.weight_decay)


def learning_rate(options: TrainOptions, step: int, steps: int) -> float:
    """The learning rate of an optimizer step.

    Args:
        options: schedule, initial rate, power or milestones, warm-up.
        step: number of the step, from 0.
        steps: steps of the whole run.

    Returns:
        poly: `lr * (1 - step / steps) ** power`; multistep: `lr` over 10 for each milestone behind. Of the w steps of
        the warm-up the n-th takes the share n / w of that, counted from 1.
    """
    done = step / steps
    warmup_steps = steps * options.warmup_epochs / options.epochs
    rate = options.lr if step >= warmup_steps else options.lr * (step + 1) / max(warmup_steps, step + 1)
    if options.schedule == "multistep":
        return rate * 0.1 ** sum(done >= milestone for milestone in options.milestones)
    return rate * (1.0 - done) ** options.poly_power


def leave_backbone(model: nn.Module, options: TrainOptions, step: int, steps: int) -> None:
    """Takes the gradients off a frozen backbone, so that the step of the optimizer leaves it, and its momenta, alone.

    Running statistics of its norms go on following the images.

    Args:
        model: the network, after a backward pass.
        options: how long it is frozen.
        step: number of the step, from 0.
        steps: steps of the whole run.
    """
    if step * options.epochs < options.freeze_backbone_epochs * steps:
        for name, parameter in model.named_parameters():
            if in_backbone(model, name):
                parameter.grad = None


def set_learning_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    """Gives every parameter group the learning rate of the schedule, times the group's own factor."""
    for group in optimizer.param_groups:
        group["lr"] = rate * group.get(_FACTOR, 1.0)


@torch.no_grad()
def penalise_scales(model: nn.Module, strength: float) -> None:
    """Adds the subgradient of `strength * sum |gamma|` over all scales of Batch- and LayerNorms to their gradients.

    To be called between the last change of the task's gradients (unscaling, clipping) and the optimizer's step.
    sign(0) is 0; a scale without a gradient took no part in the loss and is left alone.

    Args:
        model: the network, after a backward pass.
        strength: lambda of Network Slimming (Liu et al., ICCV 2017).
    """
    for layer in model.modules():
        scale = layer.weight if isinstance(layer, NORMS) else None
        if scale is not None and scale.grad is not None:
            scale.grad.add_(scale.sign(), alpha=strength)


class Ema:
    """An exponential moving average of a network's weights.

    Attributes:
        model: the averaged network, in evaluation mode.
        decay: weight of the past once the run is long enough.
    """

    def __init__(self, model: nn.Module, decay: float):
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.decay = decay

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """`average = d * average + (1 - d) * weights` after an optimizer step.

        `d = min(decay, (1 + step) / (10 + step))`, so that a short run forgets its initial weights.

        Args:
            model: the network in training.
            step: number of the step, from 0.
        """
        decay = min(self.decay, (1 + step) / (10 + step))
        for average, weight in zip(self.model.parameters(), model.parameters(), strict=True):
            average.lerp_(weight, 1.0 - decay)

    @torch.no_grad()
    def copy_buffers(self, model: nn.Module) -> None:
        """Takes over the running statistics, which are averages already."""
        for mine, theirs in zip(self.model.buffers(), model.buffers(), strict=True):
            mine.copy_(theirs)
